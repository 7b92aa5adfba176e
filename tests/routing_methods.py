"""Every method of the routing problem that can be fitted, by name."""

from __future__ import annotations

from router_rl.methods.method import Method
from router_rl.methods.registry import find_method, method_names

METHODS: dict[str, Method] = {
    name: method
    for name in method_names("routing")
    if isinstance(method := find_method("routing", name), Method)
}
