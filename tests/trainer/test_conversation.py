"""One conversation for all stages: the same token ids in SFT, GRPO and evaluation."""

import json

import pytest
from PIL import Image
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from coldstart.dataset import Dataset
from coldstart.spec import Conversation
from coldstart_trainer import conversation as chat
from coldstart_trainer import data
from coldstart_trainer.generation import encode

PLAIN = Conversation(system="", suffix="")


def test_images_come_first_without_marks_and_in_place_with_them():
    def parts(problem, images, suffix=""):
        content = chat.prompt(problem, images, PLAIN.model_copy(update={"suffix": suffix}))
        return [part.get("text", "[image]") for part in content[-1]["content"]]

    assert parts("q", 2) == ["[image]", "[image]", "q"]
    assert parts("a <image> b <image>", 2, " s") == ["a ", "[image]", " b ", "[image]", " s"]
    assert parts("<image><image>c", 2) == ["[image]", "[image]", "c"]


def test_a_content_without_images_is_a_plain_string():
    spec = Conversation(system="be brief", suffix=" s")
    found = [message["content"] for message in chat.with_response("q", 0, "r", spec)]
    assert found == ["be brief", "q s", "r"]


@pytest.mark.parametrize(
    ("problem", "images"), [("<image>", 2), ("<image><image>", 1), ("<image>", 0)]
)
def test_marks_unlike_images_are_refused(problem, images):
    with pytest.raises(ValueError, match="marks for"):
        chat.prompt(problem, images, PLAIN)


def test_system_prompt_is_left_out_when_empty():
    assert [m["role"] for m in chat.prompt("q", 0, PLAIN)] == ["user"]
    assert [m["role"] for m in chat.with_response("q", 0, "r", Conversation())] == [
        "system",
        "user",
        "assistant",
    ]


def test_completion_text_of_every_form():
    for completion in (
        "a b",
        [{"role": "assistant", "content": "a b"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "a b"}]}],
    ):
        assert chat.completion_text(completion) == "a b"


@pytest.fixture(scope="module")
def rows(tmp_path_factory, picture, processor, conversation):
    """Rows with a leading image, images within the text, and none."""
    directory = tmp_path_factory.mktemp("mixed")
    for number in range(3):
        (directory / f"{number}.png").write_bytes(picture(28 * (number + 1), 28, number))
    lines = [
        {"images": ["0.png"], "problem": "What?", "response": "I read 1."},
        {"images": ["1.png", "2.png"], "problem": "Is <image> or <image> more?", "response": "2"},
        {"images": [], "problem": "Add 1 2.", "response": "The sum is \\boxed{3}."},
    ]
    (directory / "mixed.jsonl").write_text("\n".join(map(json.dumps, lines)))
    loaded = data.load(
        Dataset(name="mixed.jsonl"),
        target="response",
        conversation=conversation,
        processor=processor,
        workdir=directory,
        seed=0,
        field="spec.sft.dataset",
    )
    return data.conversations(loaded.data, conversation)


def test_token_ids_are_the_same_in_sft_grpo_and_evaluation(rows, processor, conversation):
    """SFT through TRL's collator, GRPO through TRL's tokenization, evaluation through our own."""
    collate = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
    learnt = collate([rows[i] for i in range(len(rows))])
    ours = encode(processor, rows[:], conversation)
    for index in range(len(rows)):
        row = rows[index]
        messages = prepare_multimodal_messages(row["prompt"], images=row["images"])
        grpo = processor.apply_chat_template(
            [messages], add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"][0]
        evaluated = ours["input_ids"][index][ours["attention_mask"][index] == 1].tolist()
        assert list(grpo) == evaluated

        ids = learnt["input_ids"][index][learnt["attention_mask"][index] == 1].tolist()
        answer = processor.tokenizer(row["response"] + "<|im_end|>\n")["input_ids"]
        assert ids == evaluated + answer
        # What is learnt is the response, its end included, and nothing of the prompt.
        assert [token for token in learnt["labels"][index].tolist() if token != -100] == answer


def test_pixels_are_the_same_in_sft_and_evaluation(rows, processor, conversation):
    collate = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
    learnt = collate([rows[i] for i in range(len(rows))])
    ours = encode(processor, rows[:], conversation)
    assert learnt["pixel_values"].equal(ours["pixel_values"])
    assert learnt["image_grid_thw"].equal(ours["image_grid_thw"])


def test_rendered_text_is_what_the_template_makes_of_plain_strings(processor, conversation):
    """Parts and strings are two ways to write the same thing."""
    strings = chat.with_response("q", 0, "r", conversation)
    parts = prepare_multimodal_messages(strings)
    assert parts != strings
    rendered = [processor.apply_chat_template(m, tokenize=False) for m in (parts, strings)]
    assert rendered[0] == rendered[1]


def test_images_of_a_row_are_decoded_when_it_is_asked_for(rows):
    assert isinstance(rows[0]["images"][0], Image.Image)
