"""Tokenizers as transformers wrote them before and since: the same ids, and the files that either reader wants."""

import json

import pytest
from safelight_export.fault import Fault
from safelight_export.words import copy_tokenizer
from tiny_tokenizer import END, START, write_tokenizer
from transformers import CLIPTokenizer


@pytest.mark.parametrize("pad", [END, "!"])
def test_older_and_newer_files_give_the_same(tmp_path, pad):
    vocabulary = write_tokenizer(tmp_path / "old", pad)
    CLIPTokenizer.from_pretrained(tmp_path / "old").save_pretrained(tmp_path / "new")
    for name in ("old", "new"):
        entry = copy_tokenizer(tmp_path / name, tmp_path / "out" / name, {})
        expected = {"length": 77, "start": vocabulary[START], "end": vocabulary[END], "pad": vocabulary[pad]}
        assert entry == expected
        assert json.loads((tmp_path / "out" / name / "vocab.json").read_text()) == vocabulary
    merges = [(tmp_path / "out" / name / "merges.txt").read_text() for name in ("old", "new")]
    assert merges[0].split("\n")[1:] == merges[1].split("\n")[1:]
    texts = [json.loads((tmp_path / "out" / name / "tokenizer.json").read_text())["model"] for name in ("old", "new")]
    assert texts[0]["vocab"] == texts[1]["vocab"]
    special = json.loads((tmp_path / "out/new/special_tokens_map.json").read_text())
    assert special["pad_token"] == pad and special["bos_token"] == START


def test_the_spec_says_what_the_files_do_not(tmp_path):
    vocabulary = write_tokenizer(tmp_path / "words", END)
    entry = copy_tokenizer(tmp_path / "words", tmp_path / "out", {"pad": "!", "length": 16})
    assert entry["pad"] == vocabulary["!"] and entry["length"] == 16


def test_no_vocabulary_is_made_up(tmp_path):
    with pytest.raises(Fault, match="holds neither vocab.json with merges.txt nor tokenizer.json"):
        copy_tokenizer(tmp_path, tmp_path / "out", {})
