"""GRPO's update with each prompt computed once a group, beside TRL's, once a completion.

Usage: python benchmarks/grpo_update.py [--repeats N] [--gpu] [--skip-step] [--json]

First log-probabilities and gradients of both are compared; then both are timed in turn in this
process. Times of a shared machine vary; the ratio of the medians is what is reported. Peak memory
is that of a process of its own for each. `--gpu` takes shapes like Qwen2.5-VL-3B's, in bf16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpo_rig as rig
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

LARGE = rig.Shapes(
    hidden=2048,
    layers=36,
    heads=16,
    key_heads=2,
    inner=11008,
    vision_hidden=1280,
    vision_depth=32,
    vision_inner=3420,
    vision_heads=16,
    completion=400,
)
"""Qwen2.5-VL-3B but for its vocabulary."""

Losses = dict[str, Callable[[], torch.Tensor]]


class Bench:
    """Both trainers on one model's weights and one batch."""

    def __init__(
        self, shapes: rig.Shapes, *, checkpointing: bool = False, gpu: bool = False
    ) -> None:
        self.shapes, self.gpu = shapes, gpu
        processing = rig.processor()
        self.image = rig.pixels(shapes)
        self.trainers: dict[str, Any] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        for name in ("stock", "ours"):
            policy = rig.model(shapes, processing.tokenizer)
            self.trainers[name] = rig.trainer(
                shapes,
                policy,
                processing,
                ours=name == "ours",
                checkpointing=checkpointing,
                gpu=gpu,
            )
            given = rig.batch(shapes, policy.config, "cuda" if gpu else "cpu")
            self.batches[name] = rig.with_pixels(given, self.image, ours=name == "ours")

    def update(self, name: str) -> float:
        """Seconds of one forward and backward pass of the policy loss."""
        trainer = self.trainers[name]
        trainer.model.zero_grad(set_to_none=True)
        self._wait()
        begun = time.perf_counter()
        loss = trainer.compute_loss(trainer.model, self.batches[name])
        trainer.accelerator.backward(loss)
        self._wait()
        return time.perf_counter() - begun

    def logps(self, name: str) -> torch.Tensor:
        """Log-probabilities of the completions, (G, C)."""
        given = self.batches[name]
        ids, mask = (
            torch.cat([given[f"prompt_{kind}"], given[f"completion_{kind}"]], 1)
            for kind in ("ids", "mask")
        )
        names = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
        fields = {key: given[key] for key in names if key in given}
        trainer = self.trainers[name]
        with torch.no_grad():
            found, _, _ = trainer._get_per_token_logps_and_entropies(  # noqa: SLF001
                trainer.model, ids, mask, given["completion_ids"].size(1), **fields
            )
        return found

    def errors(self) -> tuple[float, float]:
        """The greatest difference in log-probability (nats), and of a gradient (relative)."""
        gradients = []
        for name in ("stock", "ours"):
            self.update(name)
            parameters = self.trainers[name].model.named_parameters()
            gradients.append({key: value.grad for key, value in parameters})
        logps = (self.logps("stock") - self.logps("ours")).abs().max()
        one, other = gradients
        relative = [
            float((one[key] - other[key]).norm() / one[key].norm().clamp(min=1e-12)) for key in one
        ]
        return float(logps), max(relative)

    def ratio(self, repeats: int) -> tuple[float, dict[str, float]]:
        """Stock's median time by ours, and both; timed in turn after one round for warming up."""
        times: dict[str, list[float]] = {"stock": [], "ours": []}
        for number in range(repeats + 1):
            for name, taken in times.items():
                seconds = self.update(name)
                if number:
                    taken.append(seconds)
        medians = {name: statistics.median(taken) for name, taken in times.items()}
        return medians["stock"] / medians["ours"], medians

    def flops(self, name: str) -> float:
        """Floating-point operations of one update, as torch counts them."""
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.update(name)
        return float(counter.get_total_flops())

    def least_flops(self) -> float:
        """The same of a row of P + G C tokens and one pass of the vision tower, by arithmetic.

        Six operations a weight and token (two forward, four backward), twelve an element of a head
        and visible pair of tokens in attention, eight a weight of the output head, whose logits are
        computed twice because they are never kept.
        """
        s, core = self.shapes, self.trainers["ours"].model
        tokens, scored = s.prompt + s.group * s.completion, s.group * s.completion
        linear = sum(p.numel() for p in core.model.language_model.layers.parameters() if p.ndim > 1)
        pairs = s.prompt**2 + scored * (s.prompt + s.completion)
        attention = 12 * s.hidden * s.layers * pairs
        head = 8 * core.lm_head.weight.numel() * scored
        visual, grid = core.model.visual, self.image["image_grid_thw"].to(core.device)
        patches = self.image["pixel_values"].to(core.device)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            visual(patches, grid_thw=grid).pooler_output.sum().backward()
        return 6.0 * linear * tokens + attention + head + counter.get_total_flops()

    def _wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()


def peak_bytes(name: str, *, checkpointing: bool) -> float:
    """How much memory one update adds to a process of its own."""
    command = [sys.executable, __file__, "--peak-of", name]
    command += ["--checkpointing"] if checkpointing else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def own_peak(name: str, *, checkpointing: bool) -> float:
    """The same, measured in this process, which must not have done anything else."""
    bench = Bench(rig.Shapes(), checkpointing=checkpointing)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = _resident("VmRSS")
    bench.update(name)
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """Bytes of memory that Linux counts for this process: now (VmRSS), or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def on_cpu(repeats: int) -> dict[str, float]:
    """Every figure but that of the whole step."""
    plain = Bench(rig.Shapes())
    parameters = sum(p.numel() for p in plain.trainers["ours"].model.parameters())
    print(f"{parameters / 1e6:.1f} M parameters, prompt {plain.shapes.prompt} tokens, G = 8")
    logp_error, grad_error = plain.errors()
    print(f"log-probabilities differ by {logp_error:.1e} nats, gradients by {grad_error:.1e}")
    flops = {name: plain.flops(name) for name in ("stock", "ours")}
    least = plain.least_flops()
    print(
        f"operations: stock {flops['stock'] / least:.2f}, ours {flops['ours'] / least:.3f} of least"
    )
    found = {"logp_error": logp_error, "grad_error": grad_error}
    found |= {"flops_ratio": flops["ours"] / least, "flops_stock": flops["stock"] / flops["ours"]}
    found["speedup"] = _timed("C = 256", plain, repeats)
    checkpointed = Bench(rig.Shapes(), checkpointing=True)
    found["speedup_checkpointing"] = _timed("C = 256, checkpointing", checkpointed, repeats)
    long = Bench(replace(rig.Shapes(), completion=1024))
    found["speedup_long"] = _timed("C = 1024", long, repeats)
    for key, checkpointing in (("peak_memory_ratio", False), ("peak_memory_checkpointing", True)):
        stock, ours = (peak_bytes(name, checkpointing=checkpointing) for name in ("stock", "ours"))
        found[key] = ours / stock
        print(f"{key}: {ours / 2**20:.0f} MiB against {stock / 2**20:.0f} MiB")
    return found


def on_gpu(repeats: int) -> dict[str, float]:
    """Speed at the shapes of a 3B model in bf16, with the share of a dense peak of FLOP/s."""
    bench = Bench(LARGE, checkpointing=True, gpu=True)
    logp_error, grad_error = bench.errors()
    speedup, medians = bench.ratio(repeats)
    tokens = LARGE.prompt + LARGE.group * LARGE.completion
    peaks = {}
    for name in ("stock", "ours"):
        torch.cuda.reset_peak_memory_stats()
        bench.update(name)
        peaks[name] = torch.cuda.max_memory_allocated()
    dense = LARGE.group * (LARGE.prompt + LARGE.completion)
    return {
        "speedup_checkpointing": speedup,
        "logp_error": logp_error,
        "grad_error": grad_error,
        "peak_memory_ratio": peaks["ours"] / peaks["stock"],
        "tokens_per_second": dense / medians["ours"],
        "tokens_per_second_stock": dense / medians["stock"],
        "packed_tokens_per_second": tokens / medians["ours"],
        "tera_flops_per_second": bench.flops("ours") / medians["ours"] / 1e12,
    }


def _timed(what: str, bench: Bench, repeats: int) -> float:
    ratio, medians = bench.ratio(repeats)
    print(
        f"{what}: stock {medians['stock']:.2f} s, ours {medians['ours']:.2f} s, {ratio:.2f} times"
    )
    return ratio


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="updates of each, timed (5)")
    parser.add_argument("--gpu", action="store_true", help="shapes of a 3B model on a GPU")
    parser.add_argument("--skip-step", action="store_true", help="leave out the quickstart's step")
    parser.add_argument("--json", action="store_true", help="print all figures as the last line")
    parser.add_argument("--peak-of", choices=("stock", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(own_peak(options.peak_of, checkpointing=options.checkpointing))
        return
    found = on_gpu(options.repeats) if options.gpu else on_cpu(options.repeats)
    if not options.gpu and not options.skip_step:
        from grpo_step import step_speedup  # noqa: PLC0415 - it prepares the quickstart

        found["step_speedup"] = step_speedup(options.repeats)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
