"""Temporary shim (replaced when the models package lands)."""


def __getattr__(name):
    from fedwave.models import shapes, sources

    table = {
        "model_config": "config",
        "model_folder": "resolve",
    }
    if name in table:
        return getattr(sources, table[name])
    if name == "architecture":
        return shapes.weights if not hasattr(shapes, "architecture") else shapes.architecture
    return getattr(shapes, name)
