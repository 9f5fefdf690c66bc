"""Hydra at the boundary: choices and overrides in, a checked RunConfig out, every mistake as one clear sentence.

An ablation or sweep may be named by the path of its file, too, as in ablation=mine/dropout.yaml.
"""

import hashlib
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detr.config import RunConfig
from detr.config_io import flatten, from_dict, to_dict
from detr.errors import InputError, alternatives

CONF = Path(__file__).parents[1] / "conf"
GROUPS = ("model", "data", "schedule", "ablation", "sweep", "launcher")
# keys that describe the experiment, not one run
OUTSIDE = ("ablation", "sweep", "seeds", "horizon", "fresh", "workers", "plan", "launcher", "storage")
PROGRAMS = {"config": "run.py", "search": "sweep.py"}


def compose(overrides: list[str], primary: str = "config") -> dict[str, Any]:
    """The plain, resolved configuration that these overrides give; InputError on a mistake.

    primary:  config: of runs and ablations; search: of sweeps
    """
    ConfigStore.instance().store("defaults", to_dict(RunConfig()))
    try:
        _check_choices(overrides, primary)
        overrides = [_from_file(override) for override in overrides]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed: Any = OmegaConf.to_container(hydra_compose(primary, overrides), resolve=True)
            return composed
    except yaml.YAMLError as error:
        raise InputError(_yaml_fault(error)) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_explain(error, PROGRAMS[primary])) from None


def run_config(composed: dict[str, Any], seed: int) -> RunConfig:
    """The typed settings of one run."""
    values = {k: v for k, v in composed.items() if k not in OUTSIDE} | {"seed": seed}
    values["schedule"]["horizon"] = str(values["schedule"]["horizon"])  # "5" comes as a number, and lacks its unit
    return from_dict(RunConfig, values)


def options(group: str) -> list[str]:
    """Names of the files of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def describe(primary: str = "config") -> str:
    """The choices of every group with the question in their file's head, and all settings with their defaults."""
    kind, other = ("ablation", "sweep") if primary == "config" else ("sweep", "ablation")
    lines = []
    for group in GROUPS:
        if group == other:
            continue
        lines.append(f"{group}=")
        for name in options(group):
            comments = [x[2:] for x in (CONF / group / f"{name}.yaml").read_text().splitlines() if x.startswith("# ")]
            about = next((text for text in comments if not text.startswith("@package")), "")
            lines.append(f"  {name:18} {about}")
    given = 'horizon="600 steps"' if primary == "config" else "storage=null  sweep.trials=24"
    lines += ["", f"seeds=[0]  {given}  plan=false  fresh=false  workers=null"]
    lines += ["", "settings and the defaults of the paper:"]
    lines += [f"  {key}={value}" for key, value in flatten(to_dict(RunConfig())).items() if key != "schedule.horizon"]
    lines += ["", "settings of launcher=slurm:"]
    for line in (CONF / "launcher" / "slurm.yaml").read_text().splitlines():
        if line.startswith("  ") and not line.startswith("  name:"):
            lines.append("  launcher." + line.strip().replace(": ", "=", 1))
    lines += ["", f"docs/{kind}s.md explains what else there is below {kind}, and how to write one"]
    return "\n".join(lines)


def override_key(override: str) -> str:
    """The setting or group that an override names."""
    return override.split("=", 1)[0].lstrip("+~")


def _is_file(key: str, value: str) -> bool:
    return key in ("ablation", "sweep") and Path(value).suffix in (".yaml", ".yml")


def _from_file(override: str) -> str:
    """An override whose value is the path of a file, as a choice that Hydra knows from then on."""
    key, _, value = override.partition("=")
    if not _is_file(key, value):
        return override
    path = Path(value).expanduser()
    if not path.is_file():
        raise InputError(f"{override}: there is no such file")
    content = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(content, dict) or key not in content:
        raise InputError(f"{override}: the file has no `{key}:`; experiments/{key}_file.py explains its keys")
    name = f"{path.stem}-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"  # a built-in one would win
    ConfigStore.instance().store(name, content, group=key, package="_global_")
    return f"{key}={name}"


def _check_choices(overrides: list[str], primary: str) -> None:
    """An unknown choice of a group is answered with the valid ones."""
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise InputError(f"{override!r} is not an override; write setting=value, as in ablation=lr_clip")
        if key == "sweep" and primary == "config":
            raise InputError(f"{override}: sweeps are run by python experiments/sweep.py {override}")
        if key in GROUPS and value not in options(key) and not _is_file(key, value):
            raise InputError(f"{override}: unknown {key}; {alternatives(value, options(key))} ({CONF / key})")
    if primary == "search" and not any(override.startswith("sweep=") for override in overrides):
        raise InputError(f"sweep=: name a sweep, one of {', '.join(options('sweep'))} ({CONF / 'sweep'})")


def _yaml_fault(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"a configuration file is not valid YAML ({error})"
    mark = error.problem_mark
    return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: not valid YAML ({error.problem})"


def _explain(error: Exception, program: str) -> str:
    """Hydra's first sentence, with the nearest known setting where one was misspelt."""
    text = str(error).splitlines()[0]
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        known = [*flatten(to_dict(RunConfig())), *GROUPS, *OUTSIDE]
        close = get_close_matches(unknown[1], known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{unknown[1]}: unknown setting; {hint}`python experiments/{program} --help` lists them"
    return text
