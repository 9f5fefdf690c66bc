"""The outcome of a sweep as an ablation file: the best configuration against the known recipes, on seeds of its own.

python experiments/run.py ablation=runs/.../best.yaml seeds=[0,1,2]
"""

import re
from pathlib import Path
from typing import Any

import optuna
import yaml

from detr.config import RunConfig
from detr.config_io import flatten, to_dict
from experiments.definition.compose import compose, run_config
from experiments.results.reading.sweep_trials import attributes_of, trial_frame
from experiments.results.trust import ranking
from experiments.sweeps.space import config_of
from experiments.sweeps.sweep_file import Sweep

LENGTH = "schedule.horizon"


def write_ablation(sweep: Sweep, study: optuna.Study, path: Path) -> bool:
    """Write the file; False, and no file, where no trial is better than the known recipes or none has finished.

    Everything in it is resolved: it means the same whatever happens to the sweep file and the groups.
    """
    winners = best_trials(sweep, study)
    levels = sweep.known or {"as configured": {}}
    levels = levels | winners
    if not winners:
        return False
    base = config_of(sweep.overrides, [], {}, sweep.rungs[-1], seed=0)
    arms = {name: config_of(sweep.overrides, sweep.settings, v, sweep.rungs[-1], 0) for name, v in levels.items()}
    varied = differing([base, *arms.values()])
    changed = differing([run_config(compose([]), 0), base])
    shared = _nested({k: v for k, v in _settings(base).items() if k in changed})
    names = list(levels)
    content: dict[str, Any] = {
        "ablation": {
            "name": f"{sweep.name}_best",
            "question": f"Is what the sweep {sweep.name} found better than {names[0]}?",
            "design": "factorial",
            "factors": {
                "settings": {name: [f"{k}={_typed(_settings(arm)[k])}" for k in varied] for name, arm in arms.items()}
            },
            "baseline": {"settings": names[0]},
            "primary": {"settings": [next(iter(winners)), names[0]]},
        },
        **shared,
        "horizon": sweep.rungs[-1],
    }
    for key in varied:
        section, _, name = key.partition(".")
        content.get(section, {}).pop(name, None)
    head = (
        f"# @package _global_\n# The outcome of the sweep {sweep.name} against what was known.\n"
        f"#   python experiments/run.py ablation={path} seeds=[0,1,2]\n"
    )
    path.write_text(head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))
    return True


def best_trials(sweep: Sweep, study: optuna.Study) -> dict[str, dict[str, Any]]:
    """name -> values of the best finished trial, or of the members of the Pareto front; known recipes left out."""
    if len(sweep.objectives) > 1:
        front = [trial for trial in study.best_trials if not attributes_of(trial).known]
        return {f"trial {trial.number}": trial.params for trial in front}
    table = trial_frame(study, sweep.objectives)
    finished = table[table["state"] == "finished"]
    if finished.empty:
        return {}
    best = ranking(finished, sweep.metric, sweep.objectives[sweep.metric]).iloc[0]
    return {} if best["known"] else {f"trial {best['number']}": study.trials[int(best["number"])].params}


def differing(configs: list[RunConfig]) -> list[str]:
    """Dotted names of the settings in which any two differ, in the configuration's order, the length left out."""
    flat = [_settings(config) for config in configs]
    return [key for key in flat[0] if any(one[key] != flat[0][key] for one in flat) and key not in (LENGTH, "seed")]


def _settings(config: RunConfig) -> dict[str, Any]:
    return flatten(to_dict(config))


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
    return nested


def _typed(value: Any) -> str:
    """The value as one types it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, str) and not re.fullmatch(r"[\w./-]+", value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)
