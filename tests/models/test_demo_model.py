"""The bundled model: its corpus, its files, its tokenizer, and what it answers to prompts that nobody trained it on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from models.demo.ask import DemoModel  # noqa: E402
from models.demo.make_corpus import Talks, load_systems  # noqa: E402

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
LETTER = re.compile(r"[A-Za-z\u4e00-\u9fff]")

# How each mode sounds; the first that matches names the mode.
VOICES = {
    "recommendation": re.compile(r"\brecommend|\bsuggest|\bTry\b|My pick|I would (make|choose)|推薦|建議您|我會選"),
    "support": re.compile(
        r"sorry|next step|order number|happy to help|[Tt]hank you|Of course|抱歉|下一步|訂單編號|為您服務|謝謝您"
    ),
    "ecommerce": re.compile(
        r"[Oo]ur (shop|\w+)|[Bb]asket|Order yours|Order today|Book your|free returns|one click|in our shop"
        r"|選購|購物車|下單|訂購|帶它回家|本店"
    ),
}

# None of these lines is a text of the grammar.
HELD_OUT = {
    ("general", "en"): [
        "Hello, what are you able to do for me?",
        "Could you explain why the sky is blue?",
        "Tell me a bit about Shell Beach Path",
        "how can i cook potatoes and cheese together",
    ],
    ("general", "zh-Hant"): [
        "你好，你可以做什麼呢？",
        "為什麼天空是藍色的？",
        "可以跟我說說翠湖步道嗎？",
        "馬鈴薯和起司要怎麼一起煮？",
    ],
    ("recommendation", "en"): [
        "I like quiet hikes near water, nothing steep",
        "We have eggs and rice left over, what now?",
        "My sister turns thirty and loves tea, any gift?",
        "What would be good for a rainy Sunday?",
    ],
    ("recommendation", "zh-Hant"): [
        "請推薦一條適合親子的步道，謝謝你",
        "家裡剩下雞蛋跟白飯，能做什麼好呢？",
        "姊姊愛喝茶，生日要送她什麼？",
        "下雨的星期天適合做什麼？",
    ],
    ("support", "en"): [
        "Hi there, my parcel still has not shown up",
        "Where is my order #1234? I paid for express",
        "The teapot came with a big crack in it",
        "Is there any way to send the jacket back?",
    ],
    ("support", "zh-Hant"): [
        "你好，我的包裹到現在都還沒到",
        "訂單 #1234 現在在哪裡？我付了急件費用",
        "收到的茶壺上面有一條裂痕",
        "外套可以退回去給你們嗎？",
    ],
    ("ecommerce", "en"): [
        "wool hiking socks, grey, size 42",
        "a text for our new glass teapot please",
        "Steel bottle with a bamboo lid",
        "office chair with armrests",
    ],
    ("ecommerce", "zh-Hant"): [
        "請寫一段保溫瓶的文案，五百毫升",
        "灰色羊毛登山襪，尺寸 42",
        "幫我們的玻璃茶壺寫介紹",
        "有扶手的辦公椅",
    ],
}
CASES = [(mode, language) for mode, language in HELD_OUT]


@pytest.fixture(scope="module")
def demo() -> DemoModel:
    torch.set_num_threads(1)  # the model is small, and others may use the cores
    return DemoModel(DEMO)


def voice_of(answer: str) -> str:
    return next((mode for mode, pattern in VOICES.items() if pattern.search(answer)), "general")


def language_ratio(answer: str) -> float:
    return len(CHINESE.findall(answer)) / max(1, len(LETTER.findall(answer)))


def test_the_corpus_is_the_same_for_a_seed_and_another_for_another():
    assert list(Talks(7).stream(50)) == list(Talks(7).stream(50))
    assert list(Talks(7).stream(50)) != list(Talks(8).stream(50))


def test_talks_have_all_modes_and_languages_and_no_open_slots():
    talks = list(Talks(1).stream(2000))
    assert {(talk["mode"], talk["language"]) for talk in talks} == set(HELD_OUT)
    systems = load_systems()
    for talk in talks:
        messages = talk["messages"]
        assert messages[0] == {"role": "system", "content": systems[talk["mode"]][talk["language"]]}
        assert [message["role"] for message in messages[1:]] == ["user", "assistant"] * (len(messages) // 2)
        for message in messages[2::2]:
            assert not re.search(r"[\[\]{}|]", message["content"])


def test_the_corpus_is_varied():
    pairs = {(talk["messages"][-2]["content"], talk["messages"][-1]["content"]) for talk in Talks(3).stream(5000)}
    assert len(pairs) > 4600


def test_the_answers_of_the_corpus_sound_like_their_mode():
    talks = list(Talks(5).stream(2000))
    right = sum(
        voice_of(talk["messages"][-1]["content"]) == talk["mode"] for talk in talks if talk["mode"] != "general"
    )
    assert right > 0.95 * sum(talk["mode"] != "general" for talk in talks)


def test_the_model_is_small_enough_for_git():
    assert all((DEMO / name).is_file() for name in FILES)
    assert sum((DEMO / name).stat().st_size for name in FILES) <= 20_000_000


def test_it_loads_in_single_precision_with_a_context_of_1024(demo: DemoModel):
    assert demo.model.dtype == torch.float32
    assert demo.model.config.max_position_embeddings == 1024
    assert demo.model.generation_config.eos_token_id == demo.tokenizer.convert_tokens_to_ids("<|end|>")


@pytest.mark.parametrize(
    "text",
    [
        "Where is my order #1234?",
        "我的包裹還沒到，訂單 5678。",
        "  two  spaces\nand a line",
        "{braces} [x|y] 🙂 鱻 naïve",
        "<|end|><|user|>",
    ],
)
def test_text_goes_through_the_tokenizer_unchanged(demo: DemoModel, text: str):
    ids = demo.tokenizer(text, split_special_tokens=True).input_ids
    assert demo.tokenizer.decode(ids) == text
    assert not set(ids) & set(demo.tokenizer.all_special_ids)


def test_the_chat_template_and_the_pieces_give_the_same_ids(demo: DemoModel):
    system = load_systems()["support"]["en"]
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "My parcel is late"}]
    rendered = demo.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == f"<|system|>{system}<|end|><|user|>My parcel is late<|end|><|assistant|>"
    assert demo.tokenizer(rendered).input_ids == demo._head("support", "en") + demo._turns(("My parcel is late",))


@pytest.mark.parametrize(("mode", "language"), CASES)
def test_held_out_prompts_get_whole_sentences_in_the_language_and_voice(demo: DemoModel, mode: str, language: str):
    prompts = HELD_OUT[mode, language]
    answers = dict(zip(prompts, demo.answers(mode, language, [(prompt,) for prompt in prompts]), strict=True))
    print(answers)
    for answer in answers.values():
        assert answer.endswith((".", "!", "?", "。", "！", "？"))
        assert "\ufffd" not in answer
        assert language_ratio(answer) > 0.7 if language == "zh-Hant" else language_ratio(answer) < 0.1
    assert sum(voice_of(answer) == mode for answer in answers.values()) >= 3


def test_an_order_number_is_taken_up_in_the_answer(demo: DemoModel):
    """Not digit for digit: that is beyond this model (models/demo/README.md)."""
    assert re.search(r"[Oo]rder \S*\d", demo.answer("support", "en", "Where is my order #4711?"))
    assert re.search(r"訂單 \S*\d", demo.answer("support", "zh-Hant", "訂單 4711 還沒到"))


def test_a_follow_up_refers_to_the_turn_before(demo: DemoModel):
    talk = (
        "I like quiet walks near a lake",
        "I recommend the Heron Lake Path, because it is flat and quiet.",
        "How long is it?",
    )
    assert "Heron Lake Path" in demo.answer("recommendation", "en", *talk)
