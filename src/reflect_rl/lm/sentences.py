"""Text embeddings by sentence-transformers, an optional library that is imported on use."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from reflect_rl.errors import ModelError
from reflect_rl.lm.batches import Texts
from reflect_rl.lm.checks import check_finite
from reflect_rl.paths import expanded
from reflect_rl.progress import Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

WINDOW = 1024
"""Number of texts passed to the library at once; it sorts them by length."""


def load_sentence_model(name: str, device: str = "cpu") -> SentenceTransformer:
    """Load a model from a folder or the hub; safetensors only, without running its code. Raises ModelError."""
    try:
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]
    except ImportError as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == "sentence_transformers"
        state = "is not installed" if is_missing else f"cannot be imported ({error})"
        raise ModelError(
            f"sentence-transformers {state}: pip install 'reflect-rl[sentence-transformers]'. A causal language model "
            f"(--embed-model FOLDER-OR-NAME) and TF-IDF need nothing more."
        ) from error
    path = expanded(name)
    if not path.is_dir() and (name.startswith((".", "/", "~")) or path.exists()):
        raise ModelError(f"There is no model folder {name}. Give an existing folder, or a hub name.")
    try:
        model = SentenceTransformer(
            str(path) if name.startswith("~") else name,
            device=device,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        ).eval()
    except Exception as error:  # a foreign folder can break its loaders in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ModelError(
            f"The sentence-transformers model '{name}' could not be loaded: {reason}. Give a folder or a hub name, "
            f"such as all-MiniLM-L6-v2, with safetensors weights."
        ) from error
    check_finite(model.state_dict().items(), name)
    return model


def sentence_width(model: SentenceTransformer) -> int:
    """Size of an embedding. Raises ModelError if the model does not say."""
    told: Any = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
    found = told()
    if not found:
        raise ModelError("The sentence-transformers model does not say how wide its embeddings are.")
    return int(found)


def sentence_states(
    model: SentenceTransformer, texts: Texts[str], *, done_N: np.ndarray, progress: Progress
) -> Iterator[tuple[int, np.ndarray]]:
    """(index of the text, its embedding (D,) float32), one window at a time. The model truncates long texts."""
    source, first = iter(texts), 0
    with progress.bar("embed", len(texts), "texts", int(done_N.sum())) as bar:
        while window := list(islice(source, WINDOW)):
            if not done_N[first : first + len(window)].all():
                states_ND = model.encode(window, convert_to_numpy=True, show_progress_bar=False)
                for row, state_D in enumerate(np.asarray(states_ND, np.float32), first):
                    if not np.isfinite(state_D).all():
                        raise ModelError(f"The model gives numbers that are not finite for item {row}.")
                    if not done_N[row]:
                        yield row, state_D
                        bar.update()
            first += len(window)
