"""Seeds that belong to a text, so that nothing random depends on batch, order or process."""

from hashlib import blake2b


def text_seed(seed: int, text: str) -> int:
    """A seed in [0, 2**32) from the user's seed and the text."""
    digest = blake2b(f"{seed}\0{text}".encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest)
