"""What arguments mean that the parser does not know: a module class of one's own, and checkpoints by name."""

import pkgutil
from pathlib import Path

import yaml
from jsonargparse import Namespace

from lifted_lightning import runs
from lifted_lightning.command_parser import CommandParser
from lifted_lightning.errors import UserError
from lifted_lightning.module import EmbeddingModule


def own_module(arguments: list[str]) -> tuple[list[str], type[EmbeddingModule]]:
    """Turn ``--model=my_file.MyModule`` into ``--model_class=...``, and import that class or the configuration's.

    Raises:
        UserError: if it cannot be imported or is no EmbeddingModule.
    """
    parser = CommandParser("lifted fit", add_help=False, allow_abbrev=False)
    parser.add_argument("--model", "--model_class", dest="path")
    parser.add_argument("--config", "-c", action="append", default=[])
    known, _ = parser.parse_known_args(arguments)
    given = [_model_class_of(Path(config)) for config in known.config]
    path = known.path or next((path for path in reversed(given) if path), None)
    if path is None:
        return arguments, EmbeddingModule
    try:
        module = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"--model={path}: cannot be imported ({error}); give MODULE.CLASS, importable from here"
        ) from error
    if not (isinstance(module, type) and issubclass(module, EmbeddingModule)):
        raise UserError(f"--model={path}: is no subclass of lifted_lightning.module.EmbeddingModule")
    rest = parser.parse_known_args(arguments)[1]
    configs = [part for config in known.config for part in ("--config", config)]
    return [*configs, *rest, f"--model_class={path}"], module


def _model_class_of(config: Path) -> str | None:
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--config {config}: no such file; the path is relative to here") from None
    except OSError as error:
        raise UserError(f"--config {config}: cannot be read ({error.strerror}); give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).replace(' in "<unicode string>"', "").split())
        raise UserError(f"--config {config}: is no valid YAML ({reason}); mend it there") from error
    if not isinstance(content, dict):
        raise UserError(f"--config {config}: holds no settings; see experiments/quickstart.yaml for some")
    return content.get("model_class")


def resolve_checkpoint(config: Namespace) -> Path:
    """The checkpoint file that ``--ckpt_path`` means; ``last`` and ``best`` are looked for in the run's folder.

    That folder is the one of the ``config.yaml`` given, or the one that ``--experiment`` and ``--name`` give.

    Raises:
        UserError: if there is no such file.
    """
    given = config["ckpt_path"]
    if given not in ("last", "best"):
        if not Path(given).is_file():
            raise UserError(
                f"--ckpt_path {given}: no such file; give a checkpoint, or last or best with a run's config.yaml"
            )
        return Path(given)
    folders = [Path(str(path)).resolve().parent for path in reversed(config.get("config") or [])]
    if config["name"]:
        folders += sorted(Path(config["runs_dir"]).glob(f"{config['experiment'] or '*'}/{config['name']}"))
    candidates = [f / runs.CHECKPOINTS / f"{given}.ckpt" for f in dict.fromkeys(map(Path.resolve, folders))]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = ", ".join(f"{c}{runs.checkpoints_beside(c)}" for c in candidates) or "nowhere"
    raise UserError(
        f"--ckpt_path {given}: no such checkpoint (looked for {looked}); give --config RUN/config.yaml, or a file"
    )
