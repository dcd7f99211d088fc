"""A few rows of our own in the layout of each released benchmark, without their pictures."""

MATHVISTA = [
    {
        "pid": "1",
        "question": "How high is the bar?",
        "choices": ["10", "12", "14"],
        "unit": None,
        "precision": None,
        "answer": "12",
        "question_type": "multi_choice",
        "answer_type": "text",
        "metadata": {
            "task": "figure question answering",
            "grade": "elementary school",
            "category": "math-targeted-vqa",
        },
    },
    {
        "pid": "2",
        "question": "How old is he?",
        "choices": None,
        "unit": "years",
        "precision": 1.0,
        "answer": "7",
        "question_type": "free_form",
        "answer_type": "integer",
        "metadata": None,
    },
    {
        "pid": "3",
        "question": "How long is it?",
        "choices": None,
        "unit": None,
        "precision": 1.0,
        "answer": "1.2",
        "question_type": "free_form",
        "answer_type": "float",
        "metadata": None,
    },
    {
        "pid": "4",
        "question": "In which two years?",
        "choices": None,
        "unit": None,
        "precision": None,
        "answer": "[2007, 2008]",
        "question_type": "free_form",
        "answer_type": "list",
        "metadata": None,
    },
]

_ANGLE = "What is angle 1?\nChoices:\nA:30°\nB:40°\nC:50°\nD:60°"

MATHVERSE = [
    {
        "sample_index": "1",
        "problem_index": "1",
        "problem_version": "Text Dominant",
        "question": _ANGLE,
        "question_for_eval": _ANGLE,
        "answer": "B",
        "question_type": "multi-choice",
        "metadata": {"subject": "Plane Geometry", "subfield": "Angle"},
    },
    {
        "sample_index": "2",
        "problem_index": "1",
        "problem_version": "Vision Only",
        "question": "",
        "question_for_eval": _ANGLE,
        "answer": "B",
        "question_type": "multi-choice",
        "metadata": {"subject": "Plane Geometry", "subfield": "Angle"},
    },
    {
        "sample_index": "3",
        "problem_index": "2",
        "problem_version": "Text Lite",
        "question": "Find the angle.",
        "question_for_eval": "Find the angle.",
        "answer": "118\u63b3",
        "question_type": "free-form",
        "metadata": {"subject": "Plane Geometry", "subfield": "Angle"},
    },
]

MATHVISION = [
    {
        "id": "1",
        "question": "Which is <image1> larger?",
        "options": ["$1$", "$2$"],
        "answer": "B",
        "level": 2,
        "subject": "algebra",
    },
    {
        "id": "2",
        "question": "Which picture follows? <image1> <image2>",
        "options": ["A", "B", "C", "D", "<image3>"],
        "answer": "E",
        "level": 1,
        "subject": "counting",
    },
    {
        "id": "3",
        "question": "How long? <image1>",
        "options": [],
        "answer": "\x0crac{36}{13}",
        "level": 5,
        "subject": "algebra",
    },
]

WEMATH = [
    {
        "ID": "1",
        "split": "testmini",
        "knowledge concept": "Angles",
        "question": "q",
        "option": "A. 5;B. 6; C. No correct answer",
        "answer": answer,
        "key": key,
    }
    for key, answer in (
        ("2steps_1", "A"),
        ("2steps_2", "B"),
        ("2steps_multi", "C"),
        ("3steps_1", "A"),
        ("3steps_2", "A"),
        ("3steps_3", "B"),
        ("3steps_multi", "B"),
    )
]

GEOMETRY3K = [{"problem": "<image>Find x.", "answer": "2 \\sqrt { 3 }"}]
