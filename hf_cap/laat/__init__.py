"""LAAT: a language model's scores of the features of a table regularise a small model.

"Large Language Models as Attribution Regularizers for Efficient Model Training" (arXiv 2502.20268): CAP with
one prior for the whole table, and the plain gradient with respect to the input as attribution.
"""

from typing import TYPE_CHECKING

from hf_cap.utils import lazy_exports

if TYPE_CHECKING:
    from hf_cap.laat.elicitation import FeatureScores as FeatureScores
    from hf_cap.laat.elicitation import elicit_scores as elicit_scores
    from hf_cap.laat.elicitation import load_scores as load_scores
    from hf_cap.laat.models import TabularModel as TabularModel
    from hf_cap.laat.models import attribute_features as attribute_features
    from hf_cap.laat.models import evaluate_tabular as evaluate_tabular
    from hf_cap.laat.models import load_tabular_model as load_tabular_model
    from hf_cap.laat.models import predict_table as predict_table
    from hf_cap.laat.settings import ElicitOptions as ElicitOptions
    from hf_cap.laat.settings import TableOptions as TableOptions
    from hf_cap.laat.settings import TabularModelOptions as TabularModelOptions
    from hf_cap.laat.table import infer_schema as infer_schema
    from hf_cap.laat.table import read_schema as read_schema
    from hf_cap.laat.table import read_table as read_table
    from hf_cap.laat.trainer import LAATConfig as LAATConfig
    from hf_cap.laat.trainer import LAATTrainer as LAATTrainer
    from hf_cap.laat.trainer import tabular_trainer as tabular_trainer

_EXPORTS, __getattr__, __dir__ = lazy_exports(__name__, __file__)
__all__ = sorted(_EXPORTS)
