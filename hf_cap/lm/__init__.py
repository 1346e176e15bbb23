"""Language models: local, served, cached or mocked, all as one `LanguageModel`. Names are imported lazily."""

from typing import TYPE_CHECKING

from hf_cap.utils import lazy_exports

if TYPE_CHECKING:
    from hf_cap.lm.base import LanguageModel as LanguageModel
    from hf_cap.lm.base import LMRuntime as LMRuntime
    from hf_cap.lm.base import LMSettings as LMSettings
    from hf_cap.lm.base import LMStatistics as LMStatistics
    from hf_cap.lm.base import MockLanguageModel as MockLanguageModel
    from hf_cap.lm.base import Query as Query
    from hf_cap.lm.base import Reply as Reply
    from hf_cap.lm.base import Sampling as Sampling
    from hf_cap.lm.base import Scored as Scored
    from hf_cap.lm.base import using_runtime as using_runtime
    from hf_cap.lm.cache import CachedLanguageModel as CachedLanguageModel
    from hf_cap.lm.local import LocalLanguageModel as LocalLanguageModel
    from hf_cap.lm.open import open_language_model as open_language_model
    from hf_cap.lm.served import ServedLanguageModel as ServedLanguageModel

_EXPORTS, __getattr__, __dir__ = lazy_exports(__name__, __file__)
__all__ = sorted(_EXPORTS)
