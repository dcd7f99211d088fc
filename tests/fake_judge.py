"""The fake endpoint as a judge, who is told what to say about a prompt."""

import re
from contextlib import contextmanager

from fake_teacher import Teacher, is_probe, serving, told

MODEL = "fake-judge"


def completion(text):
    """A chat completion, which has read 11 tokens and written 4."""
    return {
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 4},
    }


def same_digits(prompt):
    """A judge who knows digits only: the gold's are the last of the response, or not."""
    gold = re.search(r"<correct_answer>\n(.*?)\n</correct_answer>", prompt, re.DOTALL).group(1)
    response = re.search(r"<response>\n(.*?)\n</response>", prompt, re.DOTALL).group(1)
    stated = (re.findall(r"\d+", response) or ["none"])[-1]
    return f"Answer: {stated}\nVerdict: {'yes' if stated == gold else 'no'}"


class FakeJudge(Teacher):
    """`answer(prompt)` gives words, or a tuple of status, headers and bytes."""

    model = MODEL

    @property
    def prompts(self):
        """What it was asked, without the probes."""
        return [told(request)[0] for request in self.asked]

    @property
    def probes(self):
        return sum(map(is_probe, self.requests))

    def reply(self, request):
        said = self.answer(told(request)[0])
        return said if isinstance(said, tuple) else completion(said)


@contextmanager
def judging(answer=same_digits, key=None):
    """A judge and its base URL."""
    with serving(answer, key, FakeJudge) as judge:
        yield judge
