"""Put trained routers into mixture-of-experts models of transformers: fold, distil, patch or swap."""

from .adapter_router import AdapterRouter, load_adapter_router, write_adapter_router
from .distil import Distillation, distil
from .host import Host, host_of_folder, host_of_model
from .patch import Applied, apply_patch, extract_patch, write_patch, write_routers
from .patch_journal import recover_patch
from .routers_file import read_layer_routers
from .routes import Routes, RoutesRecorder, record_routes, replay_routes
from .stock_gate import Gate, LayerRouter, fold
from .swap import Swap, swap_routers

__all__ = [
    "AdapterRouter",
    "Applied",
    "Distillation",
    "Gate",
    "Host",
    "LayerRouter",
    "Routes",
    "RoutesRecorder",
    "Swap",
    "apply_patch",
    "distil",
    "extract_patch",
    "fold",
    "host_of_folder",
    "host_of_model",
    "load_adapter_router",
    "read_layer_routers",
    "record_routes",
    "recover_patch",
    "replay_routes",
    "swap_routers",
    "write_adapter_router",
    "write_patch",
    "write_routers",
]
