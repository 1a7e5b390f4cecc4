"""What each job type does. A task gets a :class:`worker.run.Run` and returns the job's result."""

from repositories.states import JobType
from worker.retries import RetryPolicy
from worker.run import Task
from worker.tasks.document_upload import document_upload
from worker.tasks.question_processing import question_processing
from worker.tasks.workspaces import workspace_creation, workspace_deletion, workspace_rebuild

TASKS: dict[str, Task] = {
    str(JobType.DOCUMENT_UPLOAD): document_upload,
    str(JobType.QUESTION_PROCESSING): question_processing,
    str(JobType.WORKSPACE_CREATION): workspace_creation,
    str(JobType.WORKSPACE_DELETION): workspace_deletion,
    str(JobType.WORKSPACE_REBUILD): workspace_rebuild,
}

RETRIES: dict[str, RetryPolicy] = {
    # What goes wrong with an upload is mostly a file or a storage that is there again in a moment.
    str(JobType.DOCUMENT_UPLOAD): RetryPolicy(base_seconds=2.0, cap_seconds=300.0),
    # A model that is overloaded needs longer.
    str(JobType.QUESTION_PROCESSING): RetryPolicy(base_seconds=5.0, cap_seconds=600.0),
}
"""How long each job type waits after a failure; others wait as :class:`worker.retries.RetryPolicy` says by default."""
