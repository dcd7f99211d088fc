"""What vLLM's CPU build lacks in a test's processes, and no product: Python runs this at start.

Each correction is made just before the module that needs it is imported.
"""

import sys
from importlib.abc import MetaPathFinder

_KEPT = []


def _declare_operators():
    """vLLM asks for torchvision. PyPI's is a CUDA build, whose import ends beside the CPU's torch
    with `operator torchvision::nms does not exist` (pytorch/vision#9085): declare its operators,
    without an implementation. Nothing here calls them.
    """
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)  # it takes its operators along


def _keep_weights():
    """vLLM packs a layer's weights on a CPU once they are loaded, and drops the originals: others
    cannot be loaded then (`'Parameter' object has no attribute 'weight_loader'`; about such layers:
    vllm-project/vllm#54477). GPUs keep them.
    """
    import torch
    from vllm.model_executor.layers import utils

    def plain(layer, remove_weight):
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = plain


class _Before(MetaPathFinder):
    def __init__(self, corrections):
        self.corrections = corrections

    def find_spec(self, name, path=None, target=None):  # noqa: ARG002
        if correct := self.corrections.pop(name, None):
            correct()


sys.meta_path.insert(
    0, _Before({"torchvision": _declare_operators, "vllm.v1.worker.cpu_worker": _keep_weights})
)
