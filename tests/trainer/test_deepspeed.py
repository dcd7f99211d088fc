"""DeepSpeed for real, on gloo: it trains as without it, resumes to the bit, stops at NaN."""

import json
import shutil

import pytest
from forked import carried_out, ended, ranks
from safetensors.torch import load_file
from stage_attempts import again, here, losses, order, read_result

from coldstart.checkpoint import verify
from coldstart.layout import output
from coldstart.status import ErrorCode
from coldstart_trainer import extensions

pytest.importorskip("deepspeed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("c++") is None,
        reason="DeepSpeed builds its helper for gloo when it starts: that takes a C++ compiler",
    ),
]

SHORT = {"maxSteps": 4, "saveSteps": 1, "keepCheckpoints": 100, "probe": {"size": 2}}


@pytest.fixture(scope="module", autouse=True)
def _built():
    """Compile what DeepSpeed needs at its first start: of an attempt it would take all the time."""
    from deepspeed.comm.torch import build_shm_op

    extensions.build_in_turns()
    build_shm_op()


def same(found, expected):
    """Losses, gradient norms and rewards, up to what another order of summing does."""
    assert found.keys() == expected.keys()
    for update, numbers in expected.items():
        pairs = zip(found[update], numbers, strict=True)
        off = [abs(value - number) for value, number in pairs if number is not None]
        assert max(off) < 1e-5, update


def weights(given):
    return load_file(output(given).final / "model.safetensors")


def resumed(given, step, storage):
    """The order of an attempt elsewhere, that has only one checkpoint to go on from."""
    other = again(given, storage=str(storage))
    name = f"checkpoint-{step}"
    shutil.copytree(output(given).checkpoints / name, output(other).checkpoints / name)
    return other


def goes_on_exactly(given, step, tmp_path, world):
    other = resumed(given, step, tmp_path / "resumed")
    carried_out(other, tmp_path / "resumed.json", world)
    assert losses(other) == {u: values for u, values in losses(given).items() if u > step}
    expected = weights(given)
    assert all(value.equal(expected[name]) for name, value in weights(other).items())


@pytest.fixture(scope="module")
def plain(tiny_model, tiny_rows, tmp_path_factory):
    """The losses of SFT without DeepSpeed; of one process and of two they are the same."""
    given = order("sft", tmp_path_factory.mktemp("plain") / "runs", tiny_model, tiny_rows, **SHORT)
    here(given)
    return given


@pytest.mark.parametrize(("zero", "offload", "world"), [(1, False, 1), (2, False, 2), (3, True, 2)])
def test_sft_learns_the_same(plain, zero, offload, world, tiny_model, tiny_rows, tmp_path):
    section = SHORT | {"parallelism": {"zero": zero, "offload": offload}}
    section["resources"] = {"nodes": world, "gpusPerNode": 0}
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, **section)
    result = carried_out(given, tmp_path / "result.json", world)
    same(losses(given), losses(plain))
    verify(output(given).final, result["checkpoint"]["digest"])
    for name, value in weights(plain).items():
        assert weights(given)[name].sub(value).abs().max() < 1e-4, name
    if zero > 1:
        goes_on_exactly(given, 2, tmp_path, world)


def test_grpo_learns_the_same_on_two_processes(tiny_model, tiny_rows, tmp_path):
    """With ZeRO-3 and a reference model, from within a sampling step on."""
    section = SHORT | {"resources": {"nodes": 2, "gpusPerNode": 0}, "probe": {"size": 0}}
    given = order("grpo", tmp_path / "runs", tiny_model, tiny_rows, **section)
    spread = order(
        "grpo", tmp_path / "zero", tiny_model, tiny_rows, **section, parallelism={"zero": 3}
    )
    carried_out(given, tmp_path / "result.json", 2)
    carried_out(spread, tmp_path / "zero.json", 2)
    same(losses(spread), losses(given))
    goes_on_exactly(spread, 3, tmp_path, 2)


def spoilt_gradients():
    """Make the gradients of the third update NaN; the loss stays what it is."""
    from coldstart_trainer import sft

    original = sft.Trainer.compute_loss

    def compute_loss(self, *inputs, **more):
        loss = original(self, *inputs, **more)
        if self.state.global_step == 2:
            loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    sft.Trainer.compute_loss = compute_loss


@pytest.mark.parametrize(
    ("zero", "precision", "world"), [(0, "fp32", 2), (2, "bf16", 1), (3, "fp32", 1)]
)
def test_a_gradient_that_is_no_number_stops_it(
    zero, precision, world, tiny_model, tiny_rows, tmp_path
):
    section = SHORT | {"parallelism": {"zero": zero}, "precision": precision}
    section["resources"] = {"nodes": world, "gpusPerNode": 0}
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, **section)
    codes = ended(ranks(given, tmp_path / "result.json", world, spoilt_gradients))
    assert codes == [ErrorCode.NON_FINITE.exit_code] * world
    error = read_result(tmp_path / "result.json").error
    assert "the gradient's norm is " in error.message
    assert "in update 3: lower spec.sft.learningRate" in error.message
    kept = output(given).checkpoints / "checkpoint-2"
    verify(kept)
    assert all(value.isfinite().all() for value in load_file(kept / "model.safetensors").values())


@pytest.mark.parametrize("zero", [0, 3])
def test_rows_without_images_may_be_mixed_in_on_two_processes(
    zero, tiny_model, tiny_rows, tiny_texts, tmp_path
):
    """One process may have images where the other has none, in sampling, self-check and updates."""
    pictured = [json.loads(line) for line in tiny_rows.read_text().splitlines()[:6]]
    for row in pictured:
        row["images"] = [f"pictures/{name}" for name in row["images"]]
    (tmp_path / "pictures").symlink_to(tiny_rows.parent)
    plain_text = [json.loads(line) for line in tiny_texts.read_text().splitlines()[:18]]
    lines = [json.dumps(row) + "\n" for row in [*pictured, *plain_text]]
    (tmp_path / "mixed.jsonl").write_text("".join(lines))
    given = order(
        "grpo",
        tmp_path / "runs",
        tiny_model,
        tmp_path / "mixed.jsonl",
        resources={"nodes": 2, "gpusPerNode": 0},
        parallelism={"zero": zero},
        maxSteps=6,
        probe={"size": 0},
        loss={"kl": 0.1},
    )
    carried_out(given, tmp_path / "result.json", 2)
    assert sorted(losses(given)) == [1, 2, 3, 4, 5, 6]
