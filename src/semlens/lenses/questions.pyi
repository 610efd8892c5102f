"""The questions as methods, for type checkers; written by ``docs/generate.py``, not by hand."""

from PIL.Image import Image
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import date
from numpy import ndarray
from pandas import DataFrame
from pathlib import Path
from semlens.data.artefact import Artefact
from semlens.data.image_sequence import MapStyle
from semlens.data.images import Images
from semlens.data.pictures import ArrayLike
from semlens.lenses.accuracy import Evaluation
from semlens.lenses.audit.audit_records import AuditRecord
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.audit.class_audits import ClassAudits
from semlens.lenses.audit.model_test_result import ModelTest
from semlens.lenses.audit.suspects import Suspects
from semlens.lenses.class_relevance import RelevantComponents
from semlens.lenses.compare.comparison import Comparison
from semlens.lenses.compare.drift import Drift
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.contrast.contrast import Contrast
from semlens.lenses.correct.affected_samples import AffectedSamples
from semlens.lenses.correct.artefact_sensitivity import Sensitivity
from semlens.lenses.correct.before_after import BeforeAfter
from semlens.lenses.correct.fine_tuning import Training
from semlens.lenses.correct.prune import PrunedModel
from semlens.lenses.correct.retrain import RetrainedModel
from semlens.lenses.correct.segments import Segments
from semlens.lenses.describe.card import Card
from semlens.lenses.describe.concept_map import ConceptMap
from semlens.lenses.describe.dissect import Dissection
from semlens.lenses.describe.unexpected import Unexpected
from semlens.lenses.effect import Effects
from semlens.lenses.explanation import Explanation
from semlens.lenses.graph.graph_result import AttributionGraph
from semlens.lenses.labelling.evaluate_labels import LabelEvaluation
from semlens.lenses.labelling.label_stability import LabelStability
from semlens.lenses.labelling.labeller import Labeller
from semlens.lenses.labelling.labels import Labels
from semlens.lenses.labelling.senses import SenseTable
from semlens.lenses.netdissect.net2vec import ConceptCombinations
from semlens.lenses.netdissect.netdissect import NetDissection
from semlens.lenses.prototypes.prototypes import Prototypes
from semlens.lenses.reliance.reliance_result import Reliance
from semlens.lenses.report.evidence import Evidence
from semlens.lenses.report.report_result import Report
from semlens.lenses.report.section_parts import SkippedSection
from semlens.lenses.result import Result
from semlens.lenses.scores import Scores
from semlens.lenses.search.search import Hits
from semlens.lenses.study.odd_one_out import OddOneOut
from semlens.lenses.study.study import Study
from semlens.lenses.swap.swap_result import Swap
from semlens.lenses.tcav.tcav import Tcav
from semlens.models.subject import SubjectModel
from semlens.models.target import Target
from semlens.relevance.presets import Rules
from semlens.store.reader import Database
from semlens.types import Component
from semlens.types import HasComponents
from typing import Any
from typing import Literal


class Questions(Database):
    def affected(
        self,
        components: Component | str | HasComponents | Iterable[Component | str],
        *,
        all_data: bool = ...,
    ) -> AffectedSamples:
        """Find the samples that show what some components have in common."""

    def attribution_graph(
        self,
        target: int | str | Target,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] | Labels | Mapping[Component, str] | None = ...,
        *,
        threshold: float | None = ...,
        samples: int | Sequence[int] | ndarray = ...,
        images: Images | Image | str | Path | bytes | ArrayLike | Sequence[Image | str | Path | bytes | ArrayLike] | None = ...,
        layers: str | Sequence[str] | None = ...,
        minimum: float = ...,
        top: int | None = ...,
        rules: str | Rules | None = ...,
        batch_size: int | None = ...,
        verdicts: bool | Mapping[str, str] = ...,
    ) -> AttributionGraph:
        """Trace the relevance of a class through groups of components."""

    def audit(
        self,
        target: int | str | None = ...,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] | None = ...,
        *,
        layers: str | Sequence[str] | None = ...,
        minimum: float = ...,
        level: float = ...,
        threshold: float | tuple[float | None, float | None] | None = ...,
        background: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] = ...,
        resamples: int = ...,
        seed: int = ...,
    ) -> Audit:
        """Classify each relevant component of a class as valid, spurious, both or unexpected."""

    def audit_all(
        self,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] | None = ...,
        *,
        layers: str | Sequence[str] | None = ...,
        minimum: float = ...,
        level: float = ...,
        threshold: float | tuple[float | None, float | None] | None = ...,
        background: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] = ...,
        resamples: int = ...,
        seed: int = ...,
    ) -> ClassAudits:
        """Audit every class that has concepts, each with its own."""

    def card(
        self,
        component: Component | str,
    ) -> Card:
        """Describe one component: label, statistics, measures, and its classes."""

    def class_relevance(
        self,
        target: int | str | Target,
        *,
        top: int = ...,
        layers: str | Sequence[str] | None = ...,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] | Labels | Mapping[Component, str] | None = ...,
        samples: int | Sequence[int] | ndarray | None = ...,
        images: Images | Image | str | Path | bytes | ArrayLike | Sequence[Image | str | Path | bytes | ArrayLike] | None = ...,
    ) -> RelevantComponents:
        """List the components that a class relies on most."""

    def compare(
        self,
        *others: Database,
        layers: str | Sequence[str] | None = ...,
        by_layer: bool = ...,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] | None = ...,
        target: int | str | None = ...,
        minimum: float = ...,
        threshold: float | None = ...,
        quantile: float = ...,
        label_threshold: float | None = ...,
        centred: bool = ...,
        scores: bool = ...,
        top: int = ...,
    ) -> Comparison:
        """Compare the components of databases with the same embedder."""

    def concept_map(
        self,
        *others: Database,
        layers: str | Sequence[str] | None = ...,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] | None = ...,
        clusters: int | None = ...,
        method: Literal['kmeans', 'hdbscan'] = ...,
        label_method: str | Labeller | None = ...,
        threshold: float | None = ...,
        top_labels: int = ...,
        seed: int = ...,
        again: bool = ...,
    ) -> ConceptMap:
        """Lay out components of one or several databases in the plane, and label places of it."""

    def contrast(
        self,
        a: Images | str | Path | Sequence[Any] | int | None = ...,
        b: Images | str | Path | Sequence[Any] | int | None = ...,
        *,
        errors: int | str | None = ...,
        metadata: Path | str | DataFrame | None = ...,
        column: str | None = ...,
        target: int | str | Target | None = ...,
        layers: str | Sequence[str] | None = ...,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] | Labels | Mapping[Component, str] | None = ...,
        draws: int = ...,
        samples: int = ...,
        batch_size: int = ...,
    ) -> Contrast:
        """Find the components and logits that tell two groups of images apart."""

    def cut_out(
        self,
        components: Component | str | HasComponents | Iterable[Component | str],
        *,
        layer: str | None = ...,
        count: int = ...,
        positives: Sequence[int] | None = ...,
        negatives: Sequence[int] | None = ...,
        rules: str | None = ...,
        seed: int = ...,
    ) -> Segments:
        """Localise an artefact in images that show it, and cut it out with a soft mask."""

    def dissect(
        self,
        *others: Database,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] = ...,
        layers: str | Sequence[str] | None = ...,
        target: int | str | None = ...,
        minimum: float = ...,
        method: str | Labeller | None = ...,
        threshold: float | None = ...,
        confidence: float = ...,
        depth: int = ...,
        top: int = ...,
    ) -> Dissection:
        """Count components per label and category, layer and model; find concepts without any."""

    def drift(
        self,
        *others: Database,
        layers: str | Sequence[str] | None = ...,
        steps: Sequence[str] | None = ...,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] | None = ...,
        label_threshold: float | None = ...,
        scores: bool = ...,
    ) -> Drift:
        """Track components over the checkpoints of a training run, given in order."""

    def effect(
        self,
        target: int | str | Target,
        components: Component | str | HasComponents | Iterable[Component | str] | Mapping[str, Component | str | HasComponents | Iterable[Component | str]] | None = ...,
        *,
        samples: int | Sequence[int] | ndarray = ...,
        images: Images | Image | str | Path | bytes | ArrayLike | Sequence[Image | str | Path | bytes | ArrayLike] | None = ...,
        top: int = ...,
        layer: str | None = ...,
        group_by: Literal['label'] | None = ...,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] | Labels | Mapping[Component, str] | None = ...,
        replace: Literal['zero', 'mean'] = ...,
        rules: str | Rules | None = ...,
        batch_size: int = ...,
    ) -> Effects:
        """Ablate components or groups, and compare the change of a class's logit with their relevance."""

    def evaluate(
        self,
        *,
        images: Images | str | Path | MapStyle | Iterable[Any] | None = ...,
        samples: Sequence[int] | ndarray | None = ...,
        batch_size: int = ...,
    ) -> Evaluation:
        """Measure the accuracy of a database's model; images without a known class are skipped."""

    def evaluate_labels(
        self,
        images: Images | str | Path,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] = ...,
        *,
        methods: str | Sequence[str] | None = ...,
        layers: str | Sequence[str] | None = ...,
        auroc: float = ...,
        precision: float = ...,
        batch_size: int = ...,
    ) -> LabelEvaluation:
        """Measure how often labels are right, on labelled images of your own."""

    def evidence(
        self,
        target: int | str | None = ...,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] | None = ...,
        *,
        layers: str | Sequence[str] | None = ...,
        minimum: float = ...,
        level: float = ...,
        threshold: float | tuple[float | None, float | None] | None = ...,
        background: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] = ...,
        resamples: int = ...,
        seed: int = ...,
        author: str | None = ...,
        date: str | None = ...,
    ) -> Evidence:
        """Audit classes for a compliance file: JSON evidence, and sections for a model card."""

    def explain(
        self,
        image: Image | str | Path | bytes | ArrayLike,
        target: int | str | Target | None = ...,
        *,
        top: int = ...,
        layers: str | Sequence[str] | None = ...,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] | Labels | Mapping[Component, str] | None = ...,
        rules: str | Rules | None = ...,
        name: str | None = ...,
        without: Component | str | HasComponents | Iterable[Component | str] = ...,
    ) -> Explanation:
        """Explain one prediction by the components of a database (paper, 3.3 and H.2)."""

    def label(
        self,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] = ...,
        *,
        layers: str | Sequence[str] | None = ...,
        method: str | Labeller | None = ...,
        kappa: float | None = ...,
        threshold: float | None = ...,
        candidates: int = ...,
        stability: int = ...,
        templates: Sequence[str] | None = ...,
    ) -> Labels:
        """Label components with the concepts of a set."""

    def label_stability(
        self,
        *others: Database,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] = ...,
        layers: str | Sequence[str] | None = ...,
        method: str | Labeller | None = ...,
        draws: int = ...,
    ) -> LabelStability:
        """Measure whether labels would be the same with other images."""

    def model_test(
        self,
        target: int | str,
        *,
        spurious: Images | str | Path | MapStyle | Iterable[Any] | Mapping[str, Images | str | Path | MapStyle | Iterable[Any]] | None = ...,
        artefacts: Artefact | str | Iterable[Artefact | str] = ...,
        real: Images | str | Path | MapStyle | Iterable[Any] | None = ...,
        count: int = ...,
        seed: int = ...,
        weights: str | Path | None = ...,
        batch_size: int = ...,
    ) -> ModelTest:
        """Test a model on images that show spurious features only (paper, 4.2 and F.1.1)."""

    def net2vec(
        self,
        masks: str | Path,
        layers: str | Sequence[str] | None = ...,
        *,
        penalty: float = ...,
        quantile: float = ...,
        resolution: int = ...,
        samples: int = ...,
        seed: int = ...,
        batch_size: int = ...,
    ) -> ConceptCombinations:
        """Segment concepts by linear combinations of all components of a layer (Net2Vec)."""

    def netdissect(
        self,
        masks: str | Path,
        layers: str | Sequence[str] | None = ...,
        *,
        quantile: float = ...,
        least_iou: float = ...,
        rate: float = ...,
        within_classes: bool = ...,
        resolution: int = ...,
        samples: int | None = ...,
        seed: int = ...,
        batch_size: int = ...,
    ) -> NetDissection:
        """Compare the activation maps of components with masks of concepts (Network Dissection)."""

    def odd_one_out(
        self,
        layers: str | Sequence[str] | None = ...,
        *,
        shown: int = ...,
        shuffles: int = ...,
        seed: int = ...,
    ) -> OddOneOut:
        """Test whether the measure of similarity finds the odd one out of three sets of examples."""

    def prototypes(
        self,
        target: int | str,
        *,
        layer: str | None = ...,
        number: int | None = ...,
        most: int = ...,
        quantile: float = ...,
        samples: int | Sequence[int] | ndarray = ...,
        images: Images | Image | str | Path | bytes | ArrayLike | Sequence[Image | str | Path | bytes | ArrayLike] | None = ...,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] | Labels | Mapping[Component, str] | None = ...,
        rules: str | Rules | None = ...,
    ) -> Prototypes:
        """Find the typical ways in which a model predicts a class, and images that deviate."""

    def prune(
        self,
        components: Component | str | HasComponents | Iterable[Component | str],
    ) -> PrunedModel:
        """Remove components from the weights of a copy of the database's model."""

    def reliance(
        self,
        target: int | str | Target,
        artefacts: Artefact | str | Iterable[Artefact | str],
        *,
        count: int = ...,
        images: Images | Image | str | Path | bytes | ArrayLike | Sequence[Image | str | Path | bytes | ArrayLike] | None = ...,
        seed: int = ...,
        batch_size: int = ...,
    ) -> Reliance:
        """Insert signs into images, to test whether a target relies on them."""

    def report(
        self,
        target: int | str | None = ...,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] | None = ...,
        *,
        saved: int | AuditRecord | None = ...,
        layers: str | Sequence[str] | None = ...,
        minimum: float = ...,
        level: float = ...,
        threshold: float | tuple[float | None, float | None] | None = ...,
        seed: int = ...,
        shown: int = ...,
        concept_map: bool | ConceptMap | SkippedSection = ...,
        graph: bool | AttributionGraph | SkippedSection = ...,
        before_after: bool | BeforeAfter | SkippedSection = ...,
        artefacts: Artefact | str | Iterable[Artefact | str] = ...,
        spurious: Images | str | Path | MapStyle | Iterable[Any] | Mapping[str, Images | str | Path | MapStyle | Iterable[Any]] | None = ...,
        model_test: ModelTest | Mapping[str, Any] | SkippedSection | str | Path | None = ...,
        sensitivity: Sensitivity | SkippedSection | str | Path | None = ...,
        date: date | str | None = ...,
        run: Sequence[str] = ...,
        results: Mapping[str, Result] = ...,
        audit: Audit | SkippedSection | None = ...,
        unexpected: Unexpected | SkippedSection | None = ...,
        command: Sequence[str] = ...,
    ) -> Report:
        """Write a report on a class: audit, concept map, components, graph, tests and limits."""

    def retrain(
        self,
        artefacts: Artefact | str | Iterable[Artefact | str],
        drop: AffectedSamples | str | Path | Sequence[int | str] = ...,
        *,
        images: Images | str | Path | MapStyle | Iterable[Any] | None = ...,
        only: str | None = ...,
        settings: Training | None = ...,
        checkpoint: str | Path | None = ...,
    ) -> RetrainedModel:
        """Fine-tune a copy of a model, with artefacts inserted at random and affected images left out."""

    def scores(
        self,
        layers: str | Sequence[str] | None = ...,
    ) -> Scores:
        """Rate how interpretable components are: clarity, redundancy, polysemanticity."""

    def search(
        self,
        *texts: str,
        images: Image | str | Path | bytes | ArrayLike | Sequence[Image | str | Path | bytes | ArrayLike] = ...,
        like: Component | str | HasComponents | Iterable[Component | str] = ...,
        without: str | Sequence[str] = ...,
        without_images: Image | str | Path | bytes | ArrayLike | Sequence[Image | str | Path | bytes | ArrayLike] = ...,
        unlike: Component | str | HasComponents | Iterable[Component | str] = ...,
        top: int = ...,
        offset: int = ...,
        layers: str | Sequence[str] | None = ...,
        templates: Sequence[str] = ...,
    ) -> Hits:
        """Rank components by their alignment with texts, images and other components."""

    def senses(
        self,
        *,
        components: Component | str | HasComponents | Iterable[Component | str] = ...,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] = ...,
        layers: str | Sequence[str] | None = ...,
        top: int = ...,
        templates: Sequence[str] | None = ...,
    ) -> SenseTable:
        """Split the examples of components in two, test whether the split is real, and label both."""

    def sensitivity(
        self,
        artefacts: Artefact | str | Iterable[Artefact | str] = ...,
        *,
        prune: Component | str | HasComponents | Iterable[Component | str] = ...,
        weights: Mapping[str, SubjectModel | str | Path] | str | Path | Iterable[str | Path] = ...,
        images: Mapping[str, Images | str | Path] | Images | str | Path | Iterable[str | Path] = ...,
        only: str | None = ...,
        batch_size: int = ...,
        seed: int = ...,
    ) -> Sensitivity:
        """Measure how much accuracy artefacts cost a model, before and after corrections."""

    def study(
        self,
        measure: Literal['similarity', 'clarity', 'polysemanticity'] = ...,
        layers: str | Sequence[str] | None = ...,
        *,
        tasks: int | None = ...,
        shown: int | None = ...,
        seed: int = ...,
    ) -> Study:
        """Prepare a study that compares a measure of interpretability with people."""

    def suspects(
        self,
        target: int | str | None = ...,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] | None = ...,
        *,
        vocabulary: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] = ...,
        layers: str | Sequence[str] | None = ...,
        top: int = ...,
    ) -> Suspects:
        """Rank all words of a vocabulary, and clusters, by how much only one class relies on them."""

    def swap(
        self,
        target: int | str | list[int | str] | None = ...,
        *,
        part: Literal['border', 'region', 'colour'] | None = ...,
        size: float | None = ...,
        rules: str | Rules | None = ...,
        count: int | None = ...,
        reference: int = ...,
        seed: int = ...,
        batch_size: int = ...,
    ) -> Swap:
        """Test whether a class relies on its surroundings, on a small mark, or on colours."""

    def tcav(
        self,
        concepts: Mapping[str, Images | str | Path | Sequence[Any]] | str | Path | Sequence[str | Path],
        target: int | str | Sequence[int | str],
        *,
        random: Images | str | Path | Sequence[Any] | None = ...,
        layers: str | Sequence[str] | None = ...,
        samples: int | Sequence[int] | ndarray = ...,
        counters: int = ...,
        draws: int = ...,
        pool: int = ...,
        batch_size: int = ...,
        seed: int = ...,
    ) -> Tcav:
        """Measure how sensitive classes are to concepts that are given by example images."""

    def unexpected(
        self,
        target: int | str,
        concepts: ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any] = ...,
        *,
        layers: str | Sequence[str] | None = ...,
        method: str | Labeller = ...,
        threshold: float | None = ...,
        minimum: float = ...,
        top: int | None = ...,
        nearest: int = ...,
        components: Component | str | HasComponents | Iterable[Component | str] | None = ...,
    ) -> Unexpected:
        """Find components that are relevant for a class but described by no concept."""
