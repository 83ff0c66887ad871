"""The language model of one device: embedding, layers, final norm, head.

    tokens_T -> embedding -> layers["0"] ... layers["n - 1"] -> norm -> hidden_TD -> loss /
    token_losses / predictions / logits

Nothing here depends on ranks. A pipeline stage is the same class with fewer layers, under their
global indices, and possibly without embedding or head. An absent module passes its input through,
so parameter names are the same everywhere.

Shape letters: T tokens, D width, V vocabulary.
"""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from model.at_step import AtStep
from model.attention.core import AttentionCore
from model.attention.gate_sums import GateSums
from model.attention.layer import Attention
from model.block import build_block
from model.config import ModelConfig
from model.feed_forward.dense import FeedForward
from model.feed_forward.tiled import TILE_ROWS
from model.kind_at_step import make_kinds
from model.layer_pattern import evenly, expand_pattern
from model.layer_sums import EMBEDDING, LayerSums, after_layer
from model.logits import Logits
from model.long_ce import ShortContext
from model.loss import ChunkedLoss, HeadLoss, LossSums
from model.norm import build_norm
from model.packed_layout import PackedLayout
from model.parameters import check_parameters, parameter_names
from model.predictions import Predictions
from model.recompute import RUNNERS, LayerRunner, keep_everything


class Transformer(nn.Module):
    """A hybrid decoder, whole or a stage of it.

    config: the shape. core: the attention core all layers share (see `choose_core`).
    layer_indices: global indices of the layers held here, in order; None means all of them.
    has_embedding, has_head: whether this stage has the embedding; whether it has final norm and head.

    Build it under `torch.device("meta")` to allocate nothing; fill it with `initialize`.
    Parameters are called embedding.weight, layers.<global index>..., norm.weight and, unless the
    head is tied to an embedding in this stage, lm_head.weight.

    Raises:
        LookupError: a module has a parameter without a row in `model/parameters.py`.
        ValueError: modules and rows do not agree.
    """

    def __init__(
        self,
        config: ModelConfig,
        core: AttentionCore,
        *,
        layer_indices: Sequence[int] | None = None,
        has_embedding: bool = True,
        has_head: bool = True,
    ) -> None:
        super().__init__()
        self.config = config
        self.head_loss: HeadLoss = ChunkedLoss()
        self._logits = Logits(config.logit_scale, config.logit_softcap)
        self.run_layer: LayerRunner = keep_everything
        self._gate_sums: GateSums | None = None
        self._layer_sums: LayerSums | None = None
        self._recomputed = evenly(config.num_layers, config.num_layers)
        # The key/value heads held here, of all.
        self.key_heads = range(config.num_kv_heads)
        self.specs = expand_pattern(config)
        indices = range(config.num_layers) if layer_indices is None else layer_indices
        self.embedding: nn.Module = nn.Identity()
        self._embedding_scale = config.embedding_scale if has_embedding else 1.0
        if has_embedding:
            self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleDict(
            {str(index): build_block(config, self.specs[index], core) for index in indices}
        )
        self.norm: nn.Module = nn.Identity()
        self.lm_head: nn.Module = nn.Identity()
        if has_head:
            self.norm = build_norm(config.norm, config.hidden_size, config.norm_eps)
        if has_head and not (config.tie_embeddings and has_embedding):
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        shapes = {name: tuple(parameter.shape) for name, parameter in self.named_parameters()}
        ends = {"has_embedding": has_embedding, "has_head": has_head}
        check_parameters(shapes, parameter_names(config, indices, **ends), config)

    @property
    def head_weight_VD(self) -> Tensor:  # noqa: N802
        """The weight of the output head: the embedding's when they are tied and both are in this stage."""
        holder = self.embedding if isinstance(self.lm_head, nn.Identity) else self.lm_head
        weight_VD = holder.weight
        assert isinstance(weight_VD, Tensor)
        return weight_VD

    def keep_for_backward(self, what: str, num_layers: int | None = None) -> None:
        """Choose which tensors layers keep for the backward; see `recompute`.

        num_layers: apply `what` to this many layers, evenly spread; the others keep everything. None: all layers.
        """
        if what not in RUNNERS:
            raise ValueError(f"keep_for_backward={what}: must be one of {', '.join(RUNNERS)}")
        total = self.config.num_layers
        self.run_layer = RUNNERS[what]
        self._recomputed = evenly(total if num_layers is None else num_layers, total)
        for module in self.modules():
            if isinstance(module, FeedForward):
                module.tile_rows = TILE_ROWS if what == "tiles" else 0

    def count_gates(self, sums: GateSums) -> None:
        """Adds the output gates of the layers held here to `sums`, in the steps that these measure."""
        self._gate_sums = sums
        for index, layer in self.layers.items():
            attention = layer.attention
            assert isinstance(attention, Attention)
            attention.gate_sums, attention.layer = sums, int(index)

    def measure_layers(self, sums: LayerSums) -> None:
        """Adds residual stream and attention logits of this stage to `sums`, in the steps that these measure."""
        self._layer_sums = sums
        for index, layer in self.layers.items():
            attention = layer.attention
            assert isinstance(attention, Attention)
            attention.layer_sums, attention.layer = sums, int(index)

    def forward(self, tokens_T: Tensor, layout: PackedLayout, at: AtStep | float) -> Tensor:
        """Hidden states (T, D), after the final norm if this stage has it.

        tokens_T: int64 (T,) token ids, or hidden states (T, D) if another stage has the embedding. at: the settings
        of attention at this step; a number: the model's own settings with this RoPE base.
        """
        if not isinstance(at, AtStep):
            at = AtStep.of(self.config, at)
        x_TD = self.embedding(tokens_T)
        if self._embedding_scale != 1.0:
            x_TD = x_TD * self._embedding_scale
        kinds = make_kinds(
            at,
            [*{self.specs[int(index)].kind: None for index in self.layers}],
            layout,
            self.config,
            x_TD.dtype,
        )
        with ExitStack() as measured:
            for sums in (self._gate_sums, self._layer_sums):
                if sums is not None:
                    measured.enter_context(sums.counting())
            self._measure(EMBEDDING, self.embedding, x_TD)
            for index, layer in self.layers.items():
                run = self.run_layer if int(index) in self._recomputed else keep_everything
                of_kind = kinds[self.specs[int(index)].kind]
                x_TD = run(layer, x_TD, layout, of_kind.of_layer(int(index), self.key_heads))
                self._measure(after_layer(int(index)), layer, x_TD)
            hidden_TD: Tensor = self.norm(x_TD)
            self._measure(after_layer(self.config.num_layers), self.norm, hidden_TD)
        return hidden_TD

    def _measure(self, place: int, module: nn.Module, x_TD: Tensor) -> None:
        """Adds the residual stream after a module, if this stage has it."""
        if self._layer_sums is not None and not isinstance(module, nn.Identity):
            self._layer_sums.add(place, x_TD)

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """logit_scale * hidden W^T, capped, (T, V). All logits are held at once: for short streams; see `loss`."""
        logits_TV = self.config.logit_scale * (hidden_TD @ self.head_weight_VD.t())
        cap = self.config.logit_softcap
        return cap * torch.tanh(logits_TV / cap) if cap else logits_TV

    def loss(
        self,
        hidden_TD: Tensor,
        targets_T: Tensor,
        z_loss: float = 0.0,
        short: ShortContext | None = None,
    ) -> LossSums:
        """Loss sums over the valid targets; differentiate `total`.

        targets_T: int64 (T,), -100 is ignored. short: weighs the tokens; None: all weigh 1.
        """
        return self.head_loss.sums(
            hidden_TD,
            self.head_weight_VD,
            targets_T,
            logits=self._logits,
            z_loss=z_loss,
            short=short,
        )

    def token_losses(self, hidden_TD: Tensor, targets_T: Tensor) -> Tensor:
        """Natural-log loss of every token (T,), 0 where ignored; no gradients. For evaluation."""
        return self.head_loss.per_token(
            hidden_TD,
            self.head_weight_VD,
            targets_T,
            logits=self._logits,
        )

    def predictions(self, hidden_TD: Tensor, targets_T: Tensor) -> Predictions:
        """The predicted id and the rank of the target after every token that has one. For evaluation."""
        return self.head_loss.predictions(
            hidden_TD,
            self.head_weight_VD,
            targets_T,
            logits=self._logits,
        )
