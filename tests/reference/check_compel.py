"""A check by hand: weighted_prompts.py against compel, on the text encoder of tests/models/tiny-sd.

    pip install compel==2.5.1        # beside requirements.txt
    python tests/reference/check_compel.py

compel has a grammar of its own, so it is given pieces. For weights below 1 it also blends in a prompt whose piece is
masked, which safelight does not, and it knows no commas with 20 tokens before the end; so weights are 1 or more, and
long prompts are split anywhere. Prints the largest difference of each prompt.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from compel.embeddings_provider import EmbeddingsProvider, SplitLongTextMode
from transformers import CLIPTokenizer

import weighted_prompts
from golden_pipelines import load_model, run

MODEL = Path(__file__).resolve().parents[2] / "tests/models/tiny-sd"
PROMPTS = [
    [("a red apple", 1.0)],
    [("a ", 1.0), ("red", 1.5), (" apple", 1.0)],
    [("a ", 1.21), ("red Apple's", 9.5), (" on the moon!", 1.1)],
    [("the cat in the hat on the moon with a red apple ", 1.0), ("and a purple umbrella ", 1.3)] * 6,
]


def main():
    model = load_model(MODEL)
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")

    def hidden(ids):
        return run(model.text_encoder, {"input_ids": np.array([ids])}, "last_hidden_state")

    def text_encoder(ids, attention_mask, **_):
        return SimpleNamespace(last_hidden_state=torch.from_numpy(hidden(ids[0].tolist())))

    text_encoder.device, text_encoder.dtype = torch.device("cpu"), torch.float32
    theirs = EmbeddingsProvider(
        tokenizer, text_encoder, truncate=False, device="cpu", split_long_text_mode=SplitLongTextMode.BRUTAL
    )
    for pieces in PROMPTS:
        texts, weights = map(list, zip(*pieces))
        expected = theirs.get_embeddings_for_weighted_prompt_fragments([texts], [weights]).numpy()
        found = weighted_prompts.encode([pieces], tokenizer, hidden)
        assert found.shape == expected.shape
        print(f"{found.shape[1]:5} tokens: {np.abs(found - expected).max():.1e} of {np.abs(expected).max():.1f}")


if __name__ == "__main__":
    main()
