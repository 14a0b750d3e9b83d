"""TF-IDF: what counts as a word in which script, hashes that are independent, and the picks that follow."""

from __future__ import annotations

import unicodedata
from itertools import combinations

import numpy as np
import pytest

from reflect_rl.pools.tfidf import WIDTH, sketch_places, term_hash, tfidf, words
from reflect_rl.progress import Progress
from reflect_rl.selection import FacilityLocation, KCenter

TOPICS = {
    "Chinese": [
        "今天天气很好",
        "今天的天气很好",
        "我想吃苹果和香蕉",
        "我想吃香蕉和苹果",
        "股票市场下跌",
        "股票的市场下跌了",
    ],
    "Japanese": [
        "猫が好きです",
        "私は猫が好きです",
        "電車で会社に行く",
        "電車で会社に行った",
        "雨の日は寒い",
        "雨の日はとても寒い",
    ],
    "Thai": ["วันนี้อากาศดี", "วันนี้อากาศดีมาก", "ฉันชอบกินมะม่วง", "ฉันชอบกินมะม่วงสุก", "รถไฟมาสาย", "รถไฟมาสายอีก"],
    "Korean": [
        "학교에 갑니다",
        "학교에서 갑니다",
        "고양이를 좋아해요",
        "고양이는 좋아해요",
        "비가왔어요",
        "비가많이왔어요",
    ],
    "Hindi": ["किताब मेज पर है", "मेज पर किताब है", "पानी ठंडा था", "ठंडा पानी था", "ट्रेन देर से आई", "ट्रेन बहुत देर से आई"],
    "emoji": ["🎉🎉🥳", "🎉🥳🎉", "🚀🌍", "🚀🌍🚀", "❤\ufe0f", "❤"],
    "English": [
        "the cat sat",
        "a cat sat here",
        "stocks fell today",
        "stocks fell",
        "rain is cold",
        "cold rain is here",
    ],
}


class Told(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def embedded(texts: list[str]) -> np.ndarray:
    return tfidf(lambda: texts, len(texts), Progress())


@pytest.mark.parametrize("script", TOPICS)
def test_one_text_of_each_topic_is_picked_in_any_script(script: str) -> None:
    X = embedded(TOPICS[script])
    similar = X @ X.T
    for row in range(6):
        assert np.argsort(-similar[row])[:2].tolist() in ([row, row ^ 1], [row ^ 1, row])
    for strategy in (FacilityLocation(), KCenter()):
        assert sorted(strategy.select(X, budget=3).indices // 2) == [0, 1, 2]


def test_english_words_are_runs_of_letters_digits_and_underscores() -> None:
    assert words("Don't pay $5, it's a_b + 3!") == ["don", "t", "pay", "5", "it", "s", "a_b", "3"]
    assert words("“Naïve” — café…") == ["naïve", "café"]


def test_characters_of_scripts_without_spaces_and_symbols_are_words() -> None:
    assert words("我在2024年。") == ["我", "在", "2024", "年"]
    assert words("5 € 👍🏽!") == ["5", "€", "👍", "🏽"]
    assert words("हिन्दी") == ["हिन्दी"]


def test_the_same_character_written_in_two_ways_is_one() -> None:
    for text in ("café", "학교", "が"):
        assert words(unicodedata.normalize("NFD", text)) == words(text)
    assert words("ＡＢＣ　ｶﾞ") == words("abc ガ")


def test_texts_without_words_are_counted_aloud() -> None:
    told = Told()
    X = tfidf(lambda: ["...", "a cat", "", "?!"], 4, told)
    assert not X[[0, 2, 3]].any()
    assert len(told.warnings) == 1
    assert "no word or symbol in 3 of 4 texts" in told.warnings[0]
    told = Told()
    tfidf(lambda: ["a", "今"], 2, told)
    tfidf(lambda: ["|.|"], 1, told, cells=True)
    assert told.warnings == []


def test_terms_that_share_one_coordinate_share_the_other_by_chance_only() -> None:
    """The second hash is independent of the first: 1 in 511."""
    terms = np.array([term_hash(f"word {number}") for number in range(6000)], np.uint64)
    (first, second), signs = sketch_places(terms)
    assert (first != second).all()
    pairs = both = 0
    for place in range(WIDTH):
        there = second[first == place]
        pairs += len(there) * (len(there) - 1) // 2
        both += sum(int(a == b) for a, b in combinations(there.tolist(), 2))
    assert pairs > 30_000
    assert both / pairs == pytest.approx(1 / 511, rel=0.5)
    assert abs(float((signs[0] * signs[1]).mean())) < 0.05
    for coordinates in (first, second):
        assert np.bincount(coordinates, minlength=WIDTH).max() < 3 * len(terms) / WIDTH


def test_no_text_of_one_word_vanishes_or_equals_another() -> None:
    X = embedded([f"word{number}" for number in range(3000)])
    assert ((X != 0).sum(axis=1) == 2).all()
    similar = X @ X.T
    np.fill_diagonal(similar, 0)
    assert (np.abs(similar) > 0.9).mean() < 4 / WIDTH**2  # 2 in 512 x 511 pairs of coordinates
    assert (np.abs(similar) > 0.1).mean() == pytest.approx(4 / WIDTH, rel=0.1)
