"""Files that survive a kill, caches, errors, progress bars and plugin registries."""

__all__: list[str] = []
