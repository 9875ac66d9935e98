"""A merge on one page: the mean of the adapters of several labels with one start."""

from __future__ import annotations

from alignbench import AdapterLabel, Method, MethodConfig, PluginError, Policy, Run


class Soup(Method):
    """The mean of the factors of several LoRA adapters, which are near each other where they have one start.

    The mean of factors is not that of their products: `alignbench-merge` averages those.

    Source: model soups, Wortsman et al. 2022 (arXiv:2203.05482).
    """

    api = 2
    consumes = ()

    class Config(MethodConfig):
        """What is mixed."""

        labels: list[AdapterLabel] = []
        """Labels whose adapters are averaged, the start's own if there are none."""

    def align(self, run: Run) -> Policy:
        import torch

        policy = run.adapt(dropout=False)
        parts = [run.policy(label) for label in self.config.labels] or [run.start]
        tensors = [dict(part.tensors()) for part in parts if "adapter" in part.can]  # pyright: ignore
        tensors = [one for one in tensors if one]
        with torch.no_grad():
            for name, weight in policy.tensors().items() if tensors else ():
                same = [one[name] for one in tensors if name in one and one[name].shape == weight.shape]
                if len(same) < len(parts):
                    raise PluginError(
                        f"{name} has another shape in one of the adapters", "merge equal adapters"
                    )
                weight.copy_(torch.stack(same).mean(0))
        return policy
