"""Models whose rows cannot be packed exactly are told apart, each with its reason."""

import pytest
import torch
from packed_models import KINDS, built
from transformers import AutoConfig, AutoModelForCausalLM

from coldstart_trainer.shared.support import obstacle


@pytest.mark.parametrize("kind", KINDS)
def test_supported_kinds(kind):
    assert obstacle(built(kind)) == ""


def test_dropout_of_attention():
    assert "dropout" in obstacle(built("qwen2_5_vl", attention_dropout=0.1))


def test_dropout_of_an_adapter():
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.1)
    assert "dropout" in obstacle(get_peft_model(built("qwen2"), adapter))
    adapter.lora_dropout = 0.0
    assert obstacle(get_peft_model(built("qwen2"), adapter)) == ""


def test_an_adapter_that_learns_a_prompt():
    from peft import PromptTuningConfig, get_peft_model

    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert "prompt of its own" in obstacle(get_peft_model(built("qwen2"), settings))


def test_layers_with_a_window():
    model = built("qwen2")
    model.config.layer_types = ["full_attention", "sliding_attention"]
    assert "sliding_attention" in obstacle(model)


def test_another_attention():
    model = built("qwen2_5_vl")
    model.config.get_text_config()._attn_implementation = "eager"
    assert "eager" in obstacle(model)


SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 32,
}


def test_a_mixture_of_experts():
    config = AutoConfig.for_model(
        "qwen3_moe", **SMALL, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=8
    )
    assert "mixture of experts" in obstacle(AutoModelForCausalLM.from_config(config))


def test_an_unknown_kind():
    config = AutoConfig.for_model("llama", **SMALL)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert "model type llama" in obstacle(model)
