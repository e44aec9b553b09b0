"""Jobs sent to Slurm through submitit: submitting, and going on after a preemption."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Seconds that Slurm is asked to warn before it ends a job.
WARNING = 180


class SlurmJob:
    """What submitit runs on every rank.

    When Slurm warns that the job must end, the work saves itself and returns ``stopped``; the job then goes back into
    the queue under its number, and the same call goes on where the work stopped.

    Args:
        work: what to run; returns an exit status.
        stopped: the status that says "saved, to be continued".
    """

    def __init__(self, work: Callable[[], int], stopped: int) -> None:
        self.work, self.stopped = work, stopped

    def __call__(self) -> int:
        status = self.work()
        if status == self.stopped:
            requeue()
        if status:
            # submitit tells a job that failed by its exception.
            raise SystemExit(status)
        return status

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue when the warning comes before the work has begun."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def requeue() -> None:
    """Put this Slurm job back into the queue, and wait for it to end; the first rank does it."""
    if os.environ.get("SLURM_PROCID", "0") == "0":
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)  # noqa: S603, S607
    # Ending before Slurm has taken the job back would look like the end of the work.
    time.sleep(120)


def submit(job: SlurmJob, job_dir: str | Path, name: str, **parameters: Any) -> Any:
    """Send a job to Slurm; returns submitit's handle.

    Args:
        job: what every rank runs.
        job_dir: folder for submitit's files and the ranks' output, ``JOB_ID/`` below it.
        name: of the job.
        parameters: as submitit's AutoExecutor takes them (``nodes``, ``tasks_per_node``, ``slurm_partition``, ...).
    """
    import submitit

    executor = submitit.AutoExecutor(folder=Path(job_dir) / "%j", cluster="slurm", slurm_max_num_timeout=1000)
    given = {key: value for key, value in parameters.items() if value not in (None, "")}
    executor.update_parameters(name=name, slurm_signal_delay_s=WARNING, **given)
    return executor.submit(job)
