"""Hot status: a copy of each live job's status in Redis, which saves asking PostgreSQL.

``HotStatus`` is the door; :mod:`repositories.hot_status.status` says what it promises.
"""

from repositories.hot_status.scripts import Mark
from repositories.hot_status.status import HotStatus, Load
from repositories.hot_status.view import ERROR_COLUMNS, STATUS_COLUMNS, JobStatusChange, JobStatusView

__all__ = ["ERROR_COLUMNS", "STATUS_COLUMNS", "HotStatus", "JobStatusChange", "JobStatusView", "Load", "Mark"]
