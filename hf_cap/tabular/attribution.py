"""Input gradients of a tabular model: how its scores rise with each feature."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..types import Logits
from .settings import Scope

ClassGradients = Float[Tensor, "batch classes features"]


def class_scores(logits: Logits) -> Logits:
    """What is attributed: each class's logit minus the mean over the classes; a single output as it is.

    Logits mean something only up to a number that all classes share. With two classes the score is half the
    margin between them.
    """
    return logits if logits.shape[1] == 1 else logits - logits.mean(-1, keepdim=True)


def input_gradients(
    logits: Logits,
    features: Float[Tensor, "batch features"],
    classes: Int[Tensor, " classes"],
    *,
    differentiable: bool,
) -> ClassGradients:
    """∂ score_c / ∂ x for each example and class; positive where a larger value speaks for the class.

    Args:
        logits: Outputs of the model for `features`, which must require a gradient.
        features: The inputs.
        classes: Which outputs to attribute.
        differentiable: Whether a loss on the gradients will be differentiated.
    """
    # examples do not meet in the model, so that the gradient of a sum over them is each one's own
    totals = class_scores(logits).sum(0)[classes]
    gradients = [
        torch.autograd.grad(total, features, create_graph=differentiable, retain_graph=True)[0]
        for total in totals
    ]
    return torch.stack(gradients, dim=1)


def scoped(gradients: ClassGradients, scope: Scope) -> Float[Tensor, "rows features"]:
    """Rows: one a class (`global`, the mean over the batch), or one an example and class (`local`).

    Classes run fastest in `local` rows.
    """
    return gradients.mean(0) if scope == "global" else gradients.flatten(0, 1)
