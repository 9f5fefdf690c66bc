"""The Optuna study of a sweep and the storage that it is kept in."""

import warnings
from pathlib import Path

import optuna
import sqlalchemy.exc
from filelock import FileLock
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from detr.errors import InputError
from experiments.definition.arms import digest, identity
from experiments.schema.store import SQLITE, Store, with_driver, without_password
from experiments.sweeps.sampling import SeededByPlace
from experiments.sweeps.space import config_of
from experiments.sweeps.sweep_file import Sweep


def quieten_optuna() -> None:
    """Leave it to the launcher to tell what happens to trials. Entry points call it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def storage_address(sweep: Sweep, store: Store) -> str:
    """Where the study is, the same from any working directory: the URL of a database, or the path of a journal. Where
    the sweep names no storage it is that of mlflow.yaml, or else a journal below the run root.
    """
    storage = sweep.storage or store.optuna_storage
    if storage is None:
        return str(store.run_root / "sweeps.journal")
    if storage.startswith(SQLITE):
        return SQLITE + str(Path(storage.removeprefix(SQLITE)).resolve())
    return with_driver(storage) if "://" in storage else str(Path(storage).resolve())


def open_storage(address: str, sweep: Sweep, store: Store) -> BaseStorage:
    """The storage, made on first use under a lock: several processes at once would break a new database."""
    store.run_root.mkdir(parents=True, exist_ok=True)
    if "://" not in address:
        return JournalStorage(JournalFileBackend(address))
    beat = sweep.heartbeat_seconds
    try:
        with FileLock(store.run_root / "storage.lock"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(address, heartbeat_interval=beat, grace_period=2 * beat)
    except ImportError as error:
        remedy = "; pip install -e '.[postgres]'" if address.startswith("postgresql") else ""
        raise InputError(f"storage={without_password(address)}: its driver is missing ({error}){remedy}") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"storage={without_password(address)}: cannot be opened ({reason})") from None


def sweep_identity(sweep: Sweep) -> str:
    """Hash of all that decides what the trials are; trials, time limit, longer rungs and re-runs may change later."""
    space = [[s.name, distribution_to_json(s.distribution), s.levels, s.when] for s in sweep.settings]
    search = [space, sweep.known, sweep.objectives, sweep.sampler, sweep.pruner, sweep.seeds]
    base = config_of(sweep.overrides, [], {}, sweep.rungs[0], seed=0)
    return digest([search, identity(base)])


def study_name(sweep: Sweep, storage: BaseStorage) -> str:
    """Name of the newest study of this sweep in the storage, or a new one where there is none or fresh=true."""
    stem = f"{sweep.name}-{sweep_identity(sweep)}."
    numbers = [name.removeprefix(stem) for name in optuna.get_all_study_names(storage) if name.startswith(stem)]
    newest = max((int(number) for number in numbers if number.isdigit()), default=0)
    return f"{stem}{newest + 1 if sweep.fresh or not newest else newest}"


def open_study(name: str, sweep: Sweep, storage: BaseStorage, pruner: BasePruner) -> optuna.Study:
    """The study of this name, made if there is none."""
    return optuna.create_study(
        storage=storage,
        study_name=name,
        directions=[StudyDirection[way.upper()] for way in sweep.objectives.values()],
        sampler=SeededByPlace(sweep.sampler),
        pruner=pruner,
        load_if_exists=True,
    )
