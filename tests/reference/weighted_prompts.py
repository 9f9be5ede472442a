"""Hidden states of weighted and long prompts, by their formula: what golden_pipelines.py and check_compel.py use.

A prompt is a list of sections, a section a list of pairs of text and weight; each text is tokenised on its own. Tokens
fill chunks of a window each; a chunk ends after a comma where one is among its last 20 tokens. A token's hidden state z
becomes z0 + weight * (z - z0), where z0 is the empty prompt's at the same place, as in compel and ComfyUI.
"""

import numpy as np

COMMA_TOKENS = 20


def encode(sections, tokenizer, run):
    """`run` makes hidden states, [1, window, width], of a window of ids."""
    room = tokenizer.model_max_length - 2
    empty = run(frame([], tokenizer))
    parts = []
    for section in sections:
        tokens = [(token, weight) for text, weight in section for token in words(text, tokenizer)]
        for chunk in chunks(tokens, room, tokenizer.convert_tokens_to_ids(",</w>")):
            ids, weights = [token for token, _ in chunk], [weight for _, weight in chunk]
            weights = np.array([1, *weights, *[1] * (room + 1 - len(weights))], np.float32)[None, :, None]
            hidden = run(frame(ids, tokenizer))
            parts.append(np.where(weights == 1, hidden, empty + weights * (hidden - empty)))
    return np.concatenate(parts, axis=1)


def pad(hidden, tokens, tokenizer, run):
    """As many tokens as another prompt has, by empty chunks."""
    missing = (tokens - hidden.shape[1]) // tokenizer.model_max_length
    return np.concatenate([hidden, *[run(frame([], tokenizer))] * max(missing, 0)], axis=1)


def words(text, tokenizer):
    return tokenizer(text, add_special_tokens=False).input_ids


def frame(ids, tokenizer):
    ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    return ids + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(ids))


def chunks(tokens, room, comma):
    found = []
    while True:
        length = min(room, len(tokens))
        if len(tokens) > room:
            commas = [at for at in range(room - COMMA_TOKENS, room) if tokens[at][0] == comma]
            length = commas[-1] + 1 if commas else room
        found.append(tokens[:length])
        tokens = tokens[length:]
        if not tokens:
            return found
