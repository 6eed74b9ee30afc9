"""Real models to prune: how each is made, and the labelled data its accuracy is measured on."""

from importlib import import_module

from models.zoo import MissingError, ZooModel

MODULES = (
    "fashion",
    "efficientnet_lite0",
    "ppocr_cls",
    "minilm",
    "smollm2",
    "ppocr_rec",
    "magika",
    "classics",
    "plain",
)


def catalogue() -> dict[str, ZooModel]:
    """All models by name."""
    return {model.name: model for module in MODULES for model in import_module(f"models.{module}").ZOO}


def find(name: str) -> ZooModel:
    """Model `name`, or an error that lists the names there are."""
    models = catalogue()
    if name not in models:
        raise MissingError(f"no model '{name}'; there are {', '.join(models)}")
    return models[name]
