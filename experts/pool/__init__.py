"""Expert pools: frozen modules that answer the same queries, and what each of them costs."""

__all__: list[str] = []
