"""Writes tests/models: tiny pipelines in Optimum's directory layout."""

from pathlib import Path

from tiny_tokenizer import END, write_tokenizer

MODELS = Path(__file__).resolve().parents[1] / "models"
PAD_TOKENS = {"tiny-sd": END, "tiny-lcm": END, "tiny-static": "!"}


def main():
    for name, pad_token in PAD_TOKENS.items():
        write_tokenizer(MODELS / name / "tokenizer", pad_token)


if __name__ == "__main__":
    main()
