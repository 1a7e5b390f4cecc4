"""What each job type does. A task gets a :class:`worker.run.Run` and returns the job's result."""

from repositories.states import JobType
from worker.run import Task
from worker.tasks.document_upload import document_upload
from worker.tasks.question_processing import question_processing

TASKS: dict[str, Task] = {
    str(JobType.DOCUMENT_UPLOAD): document_upload,
    str(JobType.QUESTION_PROCESSING): question_processing,
}
