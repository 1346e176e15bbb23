"""What can go wrong between here and the Hub: what to tell people, and what to try again."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx's or httpx2's
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from ..errors import ConfigError, ServerError

_logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 3
FIRST_WAIT = 1.0
"""Seconds before the second attempt, doubled after each; a `Retry-After` is obeyed up to a minute."""
_LONGEST_WAIT = 60.0
_PASSING = {408, 409, 412, 429, 500, 502, 503, 504}


@contextmanager
def explained(repo_id: str, kept: Path | None = None) -> Iterator[None]:
    """Inside, faults of the Hub become errors that say what to do.

    Args:
        repo_id: What was asked for.
        kept: Folder that is safe on this machine, for the message.
    """
    rest = (
        f" Nothing is lost: {str(kept)!r} is complete; run the same command again." if kept else ""
    )
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ConfigError(
            "There is no access token for the Hub. Log in with `hf auth login`, or set HF_TOKEN."
            + rest
        ) from error
    except OfflineModeIsEnabled as error:
        raise ConfigError(
            f"HF_HUB_OFFLINE is set, so nothing can be done with {repo_id!r} on the Hub. Unset it."
            + rest
        ) from error
    except HFValidationError as error:
        raise ConfigError(f"{repo_id!r} is no name of a repository: {error}") from error
    except HfHubHTTPError as error:
        raise ServerError(_refusal(error, repo_id) + rest) from error
    except HTTPError as error:
        raise ServerError(
            f"The connection to the Hub broke off or could not be made ({type(error).__name__}: {error})."
            + rest
        ) from error


def _refusal(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return f"{repo_id!r} is gated: ask for access on its page, then log in with that account."
    if isinstance(error, RepositoryNotFoundError):
        return f"There is no repository {repo_id!r} that this token may see. Check name, kind and token."
    known = {
        401: "The Hub does not accept the access token; it may be wrong, expired or revoked. Make a new one "
        "and log in with `hf auth login`, or set HF_TOKEN.",
        403: f"The access token may not write to {repo_id!r}. Use one with write access to this namespace.",
        409: f"Somebody else is changing {repo_id!r} at this moment.",
        412: f"Somebody else has changed {repo_id!r} in the meantime.",
        429: "The Hub has had too many requests and wants a pause.",
    }
    return known.get(status, f"The Hub answered {status}: {error}")


def persistently(send: Callable[[], T]) -> T:
    """What `send` returns, tried again after faults that pass."""
    for attempt in range(1, ATTEMPTS):
        try:
            return send()
        except (HTTPError, RuntimeError) as error:
            fault = error if isinstance(error, HTTPError) else error.__cause__
            wait = _wait(fault, attempt)
            if wait is None:
                raise
            _logger.warning("The upload was interrupted (%s); going on in %.0f s", fault, wait)
            time.sleep(wait)
    return send()


def _wait(fault: BaseException | None, attempt: int) -> float | None:
    """Seconds to wait before the next attempt; `None` where another one is of no use."""
    response = getattr(fault, "response", None)
    if not isinstance(fault, HTTPError) or (
        response is not None and response.status_code not in _PASSING
    ):
        return None
    asked = "" if response is None else response.headers.get("Retry-After", "")
    backoff = FIRST_WAIT * 2 ** (attempt - 1)
    return min(float(asked), _LONGEST_WAIT) if asked.isdigit() else backoff
