"""Training: once on the initial labels, then a little whenever new labels arrive, and to convergence at the end.

Pretraining fits reference energies, sets the energy scale, and runs AdamW (AMSGrad) with a cosine decay
(`ideal.training.fit`). An update shows all new labels and an importance-sampled replay of the old ones
(`ideal.training.update`, `ideal.training.replay`). The final convergence runs over all labels. The weights that are
judged and kept are running averages (`ideal.training.average`), and no training leaves the model worse than it found
it: one that does not help is undone, and says so.

Every random number comes from the seed and the count of updates; with the state put back (`Trainer.state`,
`Trainer.restore`) a resumed run continues bitwise on the CPU, unless a time budget ended a training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ideal.config import TrainingConfig
from ideal.dataset.splits import rank
from ideal.errors import TrainingError
from ideal.models.base import TrainablePotential
from ideal.records import Label
from ideal.training import state as packing
from ideal.training.batches import Batches, new_optimizer
from ideal.training.fit import FitPlan, fit
from ideal.training.loss import Errors, Sample, mean_errors
from ideal.training.policy import Keeper, RatePolicy
from ideal.training.records import ProgressListener, TrainingSummary
from ideal.training.reference_energies import fit_reference_energies
from ideal.training.replay import Replay, scores
from ideal.training.update import Attempt, Judges, attempt, judge

SCRATCH_ALLOWANCE = 2.0
"""Loss on learned labels, relative to the present model's, up to which new weights replace it: errors 1.4 times."""

_LEAST_SCALE = 0.01
_LEARNED_JUDGES = 16


class Trainer:
    """Trains one potential in place.

    Args:
        potential: the potential; its weights change.
        config: loss, pretraining, online updates, final convergence.
        seed: seed of shuffling and replay.

    Attributes:
        replay: scores of the labels seen.
        batches: evaluates labels; counts what it costs.

    Example:
        >>> trainer = Trainer(potential, TrainingConfig(), seed=0)
        >>> summary = trainer.pretrain(labels, validation)
        >>> summary.after.force_mae < summary.before.force_mae
        True
    """

    def __init__(self, potential: TrainablePotential, config: TrainingConfig, seed: int) -> None:
        self.potential = potential
        self.config = config
        self.replay = Replay()
        self.batches = Batches(potential, config)
        self._seed = seed
        self._updates = 0
        self._policy = RatePolicy()
        self._validation: list[Label] = []
        self._held: list[Label] = []
        self._parameters: dict[str, Tensor] = dict(potential.named_parameters())
        self._online = new_optimizer(self._parameters, config.online.learning_rate)

    # --- public ---

    def pretrain(
        self,
        labels: Sequence[Label],
        validation: Sequence[Label] = (),
        progress: ProgressListener | None = None,
    ) -> TrainingSummary:
        """Learn the initial labels.

        Args:
            labels: what to learn.
            validation: never learned; the best weights are chosen by it, now and later. Of more than
                ``config.validation_sample`` a fixed random sample is used.
            progress: called after every epoch.

        Returns:
            errors before (with fitted reference energies) and after, time, steps.

        Raises:
            TrainingError: no labels, an unknown element, or a loss that is not finite (the model is put back).
        """
        started = time.perf_counter()
        settings = self.config.pretrain
        self._normalize(labels)
        self._validation = self._sample(validation, self.config.validation_sample, stream=3)
        plan = FitPlan(
            "pretrain",
            settings.epochs,
            settings.learning_rate,
            settings.batch_size,
            None,
            settings.max_seconds,
            self.config.average,
        )
        judges = self._validation or self._sample(labels, self.config.validation_sample, stream=4)
        keeper = Keeper(self.potential, self.batches.loss(self.batches.prepare(judges)))
        return self._fit(plan, labels, judges, keeper, np.random.default_rng([self._seed, 1]), started, progress)

    def add_validation(self, labels: Sequence[Label]) -> None:
        """Let labels that came later judge from now on; they are not learned.

        At most ``config.validation_sample`` of all that ever came are looked at: a random sample, drawn by their keys.
        """
        held = [*self._held, *labels]
        kept = sorted((label.key for label in held), key=lambda key: rank(key, self._seed))
        kept = kept[: self.config.validation_sample]
        self._held = [label for label in held if label.key in kept]

    def update(
        self, new: Sequence[Label], old: Sequence[Label], progress: ProgressListener | None = None
    ) -> TrainingSummary:
        """Learn new labels without forgetting the old.

        Args:
            new: labels to learn; every pass shows all of them.
            old: labels learned before; every pass shows ``config.online.replay`` of them, drawn by importance.
            progress: called after every pass.

        Returns:
            errors on ``new`` before and after; ``rolled_back`` with a reason when the update did not help.

        Raises:
            TrainingError: no new labels, an unknown element, or a loss that is not finite (the model is put back).
        """
        started = time.perf_counter()
        if not new:
            raise TrainingError("0 new labels: an update needs at least one")
        settings = self.config.online
        new_keys = {label.key for label in new}
        old = [label for label in old if label.key not in new_keys]
        fresh = self.batches.prepare(new)
        judges = self._judges(fresh, old)
        before = judge(self.batches, judges)
        keeper = Keeper(self.potential, before.loss)

        self._updates += 1
        rng = np.random.default_rng([self._seed, 2, self._updates])
        done, attempts, factor = Attempt(), 0, 1.0
        while attempts <= settings.retries and keeper.best_is_first:
            if attempts:
                keeper.restore_first()
            factor = self._policy.factor
            try:
                tried = attempt(
                    self.batches,
                    self._online,
                    old,
                    judges,
                    before,
                    keeper,
                    self.replay,
                    settings,
                    self.config.average,
                    factor,
                    rng,
                    started,
                    progress,
                )
            except BaseException:
                keeper.restore_first()
                self._forget_moments()
                raise
            attempts += 1
            done = Attempt(
                done.steps + tried.steps,
                done.epochs + tried.epochs,
                done.replayed + tried.replayed,
                tried.reason,
                tried.best,
            )
            if keeper.best_is_first:
                self._policy.failed()
                self._forget_moments()
            else:
                self._policy.helped()
        keeper.restore_best()
        after = done.best or before
        self._score(fresh)
        return TrainingSummary(
            phase="update",
            before=before.fresh,
            after=after.fresh,
            validation_before=before.others if judges.are_validation else None,
            validation_after=after.others if judges.are_validation else None,
            seconds=time.perf_counter() - started,
            steps=done.steps,
            epochs=done.epochs,
            replayed=done.replayed,
            rolled_back=keeper.best_is_first,
            reason=keeper.reason or done.reason,
            attempts=attempts,
            learning_rate=factor * settings.learning_rate,
        )

    def converge(
        self,
        labels: Sequence[Label],
        progress: ProgressListener | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> TrainingSummary:
        """Train on all labels until nothing improves, as ``config.final`` says.

        The best weights are those of least loss on the validation labels. Where few of these came with the run, they
        may be unlike what was learned since: a sample of the learned labels then judges with them, which tells
        divergence and forgetting, though no overfitting.

        Weights to start from are kept when they end with a lower loss than the present ones, where validation labels
        alone judge. Which model knows the learned ones by heart says little of which is better: where these alone
        judge, the loss may be up to `SCRATCH_ALLOWANCE` times the present one, and in between by their share.

        Args:
            labels: everything learned so far.
            progress: called after every epoch. When it raises, the model is put back.
            weights: start from these instead of the present ones; the present ones remain where these do not suffice.

        Raises:
            TrainingError: no labels, or a loss that is not finite (the model is put back).
        """
        started = time.perf_counter()
        settings = self.config.final
        if not labels:
            raise TrainingError("0 labels: a final training needs at least one")
        judges = [*self._all_validation(), *self._sample(labels, self._learned_judges(), stream=5)]
        allowance = None if weights is None else self._scratch_allowance(len(judges))
        keeper = Keeper(self.potential, self.batches.loss(self.batches.prepare(judges)), allowance)
        plan = FitPlan(
            "final",
            settings.epochs,
            settings.learning_rate,
            settings.batch_size,
            settings.patience,
            settings.max_seconds,
            self.config.average,
        )
        rng = np.random.default_rng([self._seed, 6, self._updates])
        return self._fit(plan, labels, judges, keeper, rng, started, progress, weights)

    def errors(self, labels: Sequence[Label]) -> Errors:
        """Mean absolute errors of the present model; zero over no labels."""
        return self.batches.errors(self.batches.prepare(labels))

    def validation_errors(self) -> Errors | None:
        """Mean absolute errors on the validation labels that it looks at; None without any."""
        judges = self._all_validation()
        return self.errors(judges) if judges else None

    def state(self) -> dict[str, Any]:
        """Everything but the weights that decides what the next update does: plain arrays and numbers."""
        return {
            "updates": self._updates,
            "rate_factor": self._policy.factor,
            **packing.with_prefix("optimizer", packing.pack_optimizer(self._online, self._parameters)),
            **packing.with_prefix("replay", self.replay.state()),
            **packing.with_prefix("validation", packing.pack_labels(self._validation)),
            **packing.with_prefix("held", packing.pack_labels(self._held)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave; the potential's weights are restored by loading the potential.

        Raises:
            TrainingError: the state is incomplete or belongs to another model.
        """
        try:
            packing.unpack_optimizer(packing.without_prefix("optimizer", state), self._online, self._parameters)
            self.replay.restore(packing.without_prefix("replay", state))
            self._validation = packing.unpack_labels(packing.without_prefix("validation", state))
            held = packing.without_prefix("held", state)  # a checkpoint of before there were any has none
            self._held = packing.unpack_labels(held) if held else []
            self._updates = int(state["updates"])
            self._policy.factor = float(state["rate_factor"])
        except KeyError as error:
            raise TrainingError(f"the trainer's state lacks {error}; resume from an older checkpoint") from None

    # --- inside ---

    def _fit(
        self,
        plan: FitPlan,
        labels: Sequence[Label],
        judges: Sequence[Label],
        keeper: Keeper,
        rng: np.random.Generator,
        started: float,
        progress: ProgressListener | None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> TrainingSummary:
        """Fit by plan, keep the best weights, forget the optimizer of the updates."""
        samples = self.batches.prepare(labels)
        before, validation_before = self.batches.errors(samples), self.validation_errors()
        try:
            if weights is not None:
                self.potential.set_weights(weights)
            if plan.phase == "final":
                self._shift_references(labels)
            prepared = self.batches.prepare(judges)
            result = fit(self.batches, self._parameters, samples, prepared, plan, rng, keeper, started, progress)
        except BaseException:
            keeper.restore_first()
            raise
        if keeper.best_is_first:
            keeper.restore_first()
        else:
            keeper.restore_best()
        self._forget_moments()
        after = self._score(samples)
        return TrainingSummary(
            plan.phase,
            before,
            after,
            validation_before,
            self.validation_errors(),
            time.perf_counter() - started,
            result.steps,
            result.epochs,
            rolled_back=keeper.best_is_first and result.steps > 0,
            reason=(keeper.reason if result.steps else "") or result.reason,
            learning_rate=plan.learning_rate,
        )

    def _judges(self, fresh: Sequence[Sample], old: Sequence[Label]) -> Judges:
        """What an update is judged by; the stalest scores of old labels are refreshed on the way."""
        keys = [label.key for label in old]
        stale = self.batches.prepare([old[i] for i in self.replay.stalest(keys, self.config.online.rescore)])
        if stale:
            self._score(stale)
        validation = self._all_validation()
        if validation:
            return Judges(fresh, self.batches.prepare(validation), are_validation=True)
        return Judges(fresh, stale, are_validation=False)

    def _all_validation(self) -> list[Label]:
        """What judges and is not learned: of the start, and of the run."""
        return [*self._validation, *self._held]

    def _scratch_allowance(self, n_judges: int) -> float:
        learned = n_judges - len(self._all_validation())
        return 1.0 + (SCRATCH_ALLOWANCE - 1.0) * learned / n_judges

    def _learned_judges(self) -> int:
        """How many learned labels judge a final convergence: fewer, the more of the run's labels were held back."""
        count = self.config.validation_sample
        wanted = max(len(self._validation), min(count, _LEARNED_JUDGES)) if self._validation else count
        return max(0, wanted - len(self._held))

    def _normalize(self, labels: Sequence[Label]) -> None:
        """Reference energies and energy scale.

        A new potential takes the reference energies of the labels and their root mean square force as its scale. Then,
        and for a fitted one only, reference energies move by what the predictions leave unexplained.
        """
        potential = self.potential
        if not potential.is_fitted:
            structures = [label.atoms for label in labels]
            energies = [label.energy for label in labels]
            isolated = self.config.isolated_atoms
            references = fit_reference_energies(structures, energies, potential.elements, isolated=isolated)
            rms = math.sqrt(np.mean(np.concatenate([label.forces.ravel() for label in labels]) ** 2))
            if self.config.pretrain.rescale_layers:
                potential.rescale_layers(structures)
            potential.set_normalization(references, max(rms, _LEAST_SCALE))
            potential.is_fitted = True
        self._shift_references(labels)

    def _shift_references(self, labels: Sequence[Label]) -> None:
        """Move the reference energies by what the predictions leave unexplained."""
        potential = self.potential
        residuals = self.batches.residuals(self.batches.prepare(labels))
        present = potential.reference_energies
        shifts = fit_reference_energies([label.atoms for label in labels], residuals, potential.elements)
        potential.set_normalization({symbol: present[symbol] + shift for symbol, shift in shifts.items()})

    def _sample(self, labels: Sequence[Label], count: int, stream: int) -> list[Label]:
        """At most ``count`` labels, drawn by the seed, in their order."""
        if len(labels) <= count:
            return list(labels)
        rng = np.random.default_rng([self._seed, stream])
        return [labels[i] for i in sorted(rng.choice(len(labels), count, replace=False))]

    def _score(self, samples: Sequence[Sample]) -> Errors:
        """Errors, and the replay scores that follow from them."""
        errors = self.batches.evaluate(samples)[1]
        values = np.concatenate([scores(batch) for batch in errors])
        self.replay.record([sample.label.key for sample in samples], values)
        return mean_errors(errors)

    def _forget_moments(self) -> None:
        self._online = new_optimizer(self._parameters, self.config.online.learning_rate)
