"""Upload beside the work: a thread keeps MLflow up to date with folders, and harms nothing when it cannot."""

import threading
from pathlib import Path

from detr.errors import InputError
from experiments.schema.store import Store, reason
from experiments.tracking.client import Tracker
from experiments.tracking.upload import Upload

SEND_SECONDS, MAX_WAIT_SECONDS = 5.0, 60.0  # from one upload to the next; at most, while MLflow cannot be reached


class Uploader:
    """Thread that uploads `folders` every few seconds, until `finish`.

    fault:  reason why the last attempt failed; "" while all is well
    """

    def __init__(self, store: Store, folders: list[Path]) -> None:
        self.store, self.folders, self.fault = store, folders, ""
        self.uploads: dict[Path, Upload] = {}
        self.tracker: Tracker | None = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="uploader", daemon=True)

    def __enter__(self) -> "Uploader":
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Stop the thread and upload the rest, if MLflow can be reached now."""
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join()
        self._send()

    def _run(self) -> None:
        wait = 0.0  # the first attempt tells at once whether MLflow is there
        while not self.ended.wait(wait):
            self._send()
            wait = min(MAX_WAIT_SECONDS, max(2 * wait, SEND_SECONDS)) if self.fault else SEND_SECONDS

    def _send(self) -> None:
        self.fault = ""
        try:
            self.tracker = self.tracker or Tracker(self.store)
            for path in list(self.folders):
                try:
                    self.uploads.setdefault(path, Upload(path, self.tracker)).send()
                except InputError as error:  # of this folder; the others can be sent
                    self.fault = str(error)
        except Exception as error:  # HTTP, SQL, files, replies of any kind: a run does not die of its tracker
            self.fault = f"{type(error).__name__}: {reason(error, self.store.tracking_uri)[:300]}"
