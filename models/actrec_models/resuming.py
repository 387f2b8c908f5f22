"""Going on with a training run: that it is the same one, where it stood and what it began from."""

from pathlib import Path
from typing import Any

from actrec import config
from actrec.errors import ConfigError
from actrec_models import provenance
from actrec_models.recipe import Recipe


def check_same_run(found: tuple[Path, dict[str, Any]], recipe: Recipe, fingerprint: str) -> None:
    """Makes sure that a checkpoint (its path and content) is of this recipe on these data.

    Raises:
        ConfigError: It is of another run; what differs is named.
    """
    path, content = found
    before = config.build(Recipe, content["hyper_parameters"]["recipe"]).as_dict()
    changed = [name for name, value in recipe.as_dict().items() if before[name] != value]
    known = provenance.of_checkpoint(content).get("data_sha256", fingerprint)
    changed += ["data, although it is called the same"] if known != fingerprint else []
    if changed:
        raise ConfigError(
            f"{path.parent} holds a run with another {', '.join(changed)}: choose another --out, or --fresh"
        )


def same_init(found: tuple[Path, dict[str, Any]], init: list[str]) -> list[str]:
    """What a run that goes on began from; where files are named again, they must be the same.

    Raises:
        ConfigError: They are others.
    """
    path, content = found
    began: list[str] | None = provenance.of_checkpoint(content).get("init")
    if began is None or not init:  # from before this was kept, or left to the checkpoint
        return began or init
    if [one.rsplit(" ", 1)[-1] for one in began] != [one.rsplit(" ", 1)[-1] for one in init]:  # whatever their names
        from_what = ", ".join(began) or "random weights"
        raise ConfigError(
            f"{path.parent} holds a run that began from {from_what}, not from {', '.join(init)}: leave out --init to "
            "go on with it, or choose another --out, or --fresh"
        )
    return began


def position(content: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Where a run is; those from before this was kept have checkpoints of whole epochs alone."""
    if "actrec" in content:
        return dict(content["actrec"])
    done = int(content["epoch"]) + 1
    return {"epoch": done, "steps": 0, "seconds": 0.0, "finished": done >= recipe.epochs}
