"""
Regressions that somebody could ship: each is one edit of one file of an installed library.

The edits are written for transformers 5.24, peft 0.21, accelerate 1.15 and torch 2.13. A place is the function that was
edited, or one that the edit makes run. Of what makes a process invalid it is what the reason has to name: the class of
the blocks that are not recomputed, or the attention that ran. Of what was allocated before the profiled step it is the
name of the optimizer's state.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pytest_llmbench.schema.case import Case

__all__ = ["PLANTS", "ROWS", "Kind", "Plant", "Row"]

Kind = Literal[
    "memory",
    "operators",
    "host Python",
    "host reads",
    "checkpointing",
    "dtype",
    "masks",
    "leaks",
    "optimizer",
    "loop",
    "less work",
]
Row = Literal["lora", "long", "padded", "trainer", "full", "full-trainer", "plain"]

_CASE = Case(model="yi-6b-chat", max_length=1024, attention="sdpa", accumulation_steps=2)

ROWS: dict[Row, Case] = {
    "lora": _CASE,
    "long": msgspec.structs.replace(_CASE, max_length=8192),
    "padded": msgspec.structs.replace(_CASE, batch_size=2),
    "trainer": msgspec.structs.replace(_CASE, loop="trainer"),
    "full": msgspec.structs.replace(_CASE, tuner="full"),
    "full-trainer": msgspec.structs.replace(_CASE, tuner="full", loop="trainer"),
    "plain": msgspec.structs.replace(_CASE, gradient_checkpointing=False),
}
"""What the plants are measured with, on transformers' own Llama; `plain` has no checkpointing."""


class Plant(msgspec.Struct, frozen=True, kw_only=True):
    """One regression."""

    name: str
    kind: Kind
    row: Row
    file: str
    """Within the folder of the installed packages; its first part is the library."""
    old: str
    new: str
    """What stands in place of each *old*."""
    places: tuple[str, ...]
    """One of them has to be in the first line of the failure; for less or more that is trained, the metric that says so will do."""
    like: str
    """Public report or mechanism that it resembles."""
    held_out: bool = False
    """Whether it was written after what judges, before anybody looked whether it is caught."""

    @property
    def library(self) -> str:
        return self.file.partition("/")[0]


_LLAMA = "transformers/models/llama/modeling_llama.py"
_LAYERS = "transformers/modeling_layers.py"
_LOSS = "transformers/loss/loss_utils.py"
_MASKS = "transformers/masking_utils.py"
_SDPA = "transformers/integrations/sdpa_attention.py"
_TRAINER = "transformers/trainer.py"
_LORA = "peft/tuners/lora/layer.py"
_ADAM = "torch/optim/adam.py"

_BLOCK = "LlamaDecoderLayer"
"""Checkpointing is told by the class of the block."""

_LAYER_BEGINS = "        residual = hidden_states\n        hidden_states = self.input_layernorm(hidden_states)\n"
_LORA_BEGINS = "            torch_result_dtype = result.dtype\n\n            lora_A_keys = self.lora_A.keys()\n"
_LORA_ADDS = "                    result = result + lora_B(lora_A(dropout(x))) * scaling\n"
_MLP = "        hidden_states = self.post_attention_layernorm(hidden_states)\n        hidden_states = self.mlp(hidden_states)\n"
_ATTENDS = "        attn_output, attn_weights = attention_interface(\n            self,\n            query_states,\n"
_SDPA_KEYS = "    kv_length = key.shape[2]\n\n    # Instead of relying"
_LOGITS = (
    "    # Flatten the tokens\n    logits = logits.view(-1, vocab_size)\n    shift_labels = shift_labels.view(-1)\n"
)

PLANTS: tuple[Plant, ...] = (
    # What tensors take and move.
    Plant(
        name="logits_copied",
        kind="memory",
        row="lora",
        file=_LOSS,
        old=f"{_LOGITS}    shift_labels = shift_labels.to(logits.device)\n    loss = fixed",
        new=f"{_LOGITS.replace('logits.view', '(logits * 1.0).view')}"
        "    shift_labels = shift_labels.to(logits.device)\n    loss = fixed",
        places=(f"{_LOSS}:ForCausalLMLoss",),
        like="one more fp32 copy of the logits: transformers before 4.49, and transformers#30860",
    ),
    Plant(
        name="logits_upcast_twice",
        kind="memory",
        row="lora",
        file=_LLAMA,
        old="        logits = self.lm_head(hidden_states)\n\n        loss = None\n",
        new="        logits = self.lm_head(hidden_states)\n        logits = logits.double().float()\n\n        loss = None\n",
        places=(f"{_LLAMA}:LlamaForCausalLM.forward",),
        like="logits.float() of all positions in forward: transformers#30860, #33902",
    ),
    Plant(
        name="cache_in_training",
        kind="memory",
        row="plain",
        file=_LLAMA,
        old="        if use_cache and cache is None:\n",
        new="        if cache is None:\n",
        places=(f"{_LLAMA}:LlamaModel.forward", "transformers/cache_utils.py:DynamicLayer.update"),
        like="a key-value cache is filled while training: use_cache left on",
    ),
    # Work of the device.
    Plant(
        name="qkv_contiguous",
        kind="operators",
        row="lora",
        file=_SDPA,
        old=_SDPA_KEYS,
        new=f"    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()\n{_SDPA_KEYS}",
        places=(f"{_SDPA}:sdpa_attention_forward",),
        like="contiguous() on query, key and value: a workaround of torch's SDPA that outlives its bug",
    ),
    Plant(
        name="projections_contiguous",
        kind="operators",
        row="lora",
        file=_LLAMA,
        old="self.q_proj(hidden_states).view(hidden_shape).transpose(1, 2)\n",
        new="self.q_proj(hidden_states).view(hidden_shape).transpose(1, 2).contiguous()\n",
        places=(f"{_LLAMA}:LlamaAttention.forward",),
        like="contiguous() after a transpose",
    ),
    Plant(
        name="residuals_cloned",
        kind="operators",
        row="lora",
        file=_LLAMA,
        old="        residual = hidden_states\n",
        new="        residual = hidden_states.clone()\n",
        places=(f"{_LLAMA}:LlamaDecoderLayer.forward",),
        like="a clone in the residual stream, against an operator in place that is no longer there",
    ),
    Plant(
        name="dropout_twice",
        kind="operators",
        row="lora",
        file=_LORA,
        old=_LORA_ADDS,
        new=_LORA_ADDS.replace("dropout(x)", "dropout(dropout(x))"),
        places=(f"{_LORA}:Linear.forward",),
        like="dropout in the layer and in its variant",
    ),
    Plant(
        name="lora_merged_each_step",
        kind="operators",
        row="lora",
        file=_LORA,
        old=_LORA_ADDS,
        new="                    merged = self.get_base_layer().weight + (lora_B.weight @ lora_A.weight) * scaling\n"
        "                    result = F.linear(dropout(x), merged)\n",
        places=(f"{_LORA}:Linear.forward",),
        like="W + BA computed anew in each forward, as DoRA and parametrized experts do: peft#2912",
    ),
    Plant(
        name="adapter_by_sample",
        kind="operators",
        row="padded",
        file=_LORA,
        old=_LORA_ADDS,
        new="                    result = result + torch.cat([lora_B(lora_A(one)) for one in dropout(x).split(1)]) * scaling\n",
        places=(f"{_LORA}:Linear.forward",),
        like="the path for batches of mixed adapters taken for all",
    ),
    Plant(
        name="rotary_by_layer",
        kind="operators",
        row="lora",
        file=_LLAMA,
        old="                position_embeddings=position_embeddings,\n                position_ids=position_ids,\n"
        "                cache=cache,\n                use_cache=use_cache,\n                **kwargs,\n            )\n\n        hidden",
        new="                position_embeddings=self.rotary_emb(hidden_states, position_ids=position_ids),\n"
        "                position_ids=position_ids,\n"
        "                cache=cache,\n                use_cache=use_cache,\n                **kwargs,\n            )\n\n        hidden",
        places=(f"{_LLAMA}:LlamaModel.forward", f"{_LLAMA}:LlamaRotaryEmbedding.forward"),
        like="the rotary embedding computed in each layer, as transformers did before 4.46",
    ),
    # Work of Python.
    Plant(
        name="lora_isinstance",
        kind="host Python",
        row="lora",
        file=_LORA,
        old=_LORA_BEGINS,
        new=f"            wrapped = [module for module in self.modules() if isinstance(module, LoraLayer)]\n{_LORA_BEGINS}",
        places=(f"{_LORA}:Linear.forward",),
        like="a walk over the modules of each wrapped layer",
    ),
    Plant(
        name="lora_python_loop",
        kind="host Python",
        row="lora",
        file=_LORA,
        old=_LORA_BEGINS,
        new=f"            total = 0\n            for index in range(5000):\n                total += index\n{_LORA_BEGINS}",
        places=(f"{_LORA}:Linear.forward",),
        like="a Python loop without calls in each LoRA forward",
    ),
    Plant(
        name="all_parameters_walked",
        kind="host Python",
        row="lora",
        file="peft/peft_model.py",
        old="            kwargs = get_alora_offsets_for_forward(self, input_ids, inputs_embeds, **kwargs)\n"
        '            if self.base_model.config.model_type == "mpt":\n',
        new="            kwargs = get_alora_offsets_for_forward(self, input_ids, inputs_embeds, **kwargs)\n"
        "            trained = sum(parameter.requires_grad for _, parameter in self.named_parameters())\n"
        '            if self.base_model.config.model_type == "mpt":\n',
        places=("peft/peft_model.py:PeftModelForCausalLM.forward",),
        like="all parameters looked at in each forward: peft#3039 in the step",
    ),
    Plant(
        name="config_copied",
        kind="host Python",
        row="lora",
        file=_LLAMA,
        old="        input_shape = hidden_states.shape[:-1]\n        hidden_shape = (*input_shape, -1, self.head_dim)\n",
        new="        import copy\n\n        config = copy.deepcopy(self.config)\n"
        "        input_shape = hidden_states.shape[:-1]\n        hidden_shape = (*input_shape, -1, self.head_dim)\n",
        places=(f"{_LLAMA}:LlamaAttention.forward",),
        like="a deep copy of the configuration in each layer",
    ),
    Plant(
        name="pattern_compiled",
        kind="host Python",
        row="lora",
        file=_LORA,
        old=_LORA_BEGINS,
        new='            import re\n\n            re.purge()\n            re.fullmatch(r".*\\.(q|k|v|o|gate|up|down)_proj", "x.q_proj")\n'
        f"{_LORA_BEGINS}",
        places=(f"{_LORA}:Linear.forward",),
        like="a regular expression of the targets compiled in each call",
    ),
    Plant(
        name="signature_inspected",
        kind="host Python",
        row="lora",
        file=_LAYERS,
        old="            if self.gradient_checkpointing and self.training and",
        new="            import inspect\n\n            names = list(inspect.signature(forward).parameters)\n"
        "            if self.gradient_checkpointing and self.training and",
        places=(f"{_LAYERS}:GradientCheckpointingLayer.__init_subclass__",),
        like="inspect.signature in each call: wrappers of transformers 5, tpu-inference#3403",
    ),
    # Values that the host waits for.
    Plant(
        name="positions_read_by_layer",
        kind="host reads",
        row="lora",
        file=_SDPA,
        old=_SDPA_KEYS,
        new='    if (positions := kwargs.get("position_ids")) is not None and not (torch.diff(positions, dim=-1) >= 0).all():\n'
        f"        is_causal = False\n{_SDPA_KEYS}",
        places=(f"{_SDPA}:sdpa_attention_forward",),
        like="position_ids read by the host in each attention call: transformers#39213, #47771",
    ),
    Plant(
        name="nan_looked_for",
        kind="host reads",
        row="lora",
        file=_LLAMA,
        old=_MLP,
        new=f"{_MLP}        if bool(torch.isnan(hidden_states).any()):\n            raise FloatingPointError\n",
        places=(f"{_LLAMA}:LlamaDecoderLayer.forward",),
        like="bool(tensor.any()) in each block: clamps for fp16 that stayed",
    ),
    Plant(
        name="lengths_as_a_list",
        kind="host reads",
        row="padded",
        file=_MASKS,
        old="    # Potentially pad the 2D mask\n    padding_mask = prepare_padding_mask(attention_mask, kv_length, kv_offset)\n"
        "\n    # Under specific conditions, we can avoid materializing the mask\n    #   1. Causal masks",
        new="    # Potentially pad the 2D mask\n    padding_mask = prepare_padding_mask(attention_mask, kv_length, kv_offset)\n"
        "    lengths = [] if padding_mask is None else padding_mask.sum(-1).tolist()\n"
        "\n    # Under specific conditions, we can avoid materializing the mask\n    #   1. Causal masks",
        places=(f"{_MASKS}:sdpa_mask",),
        like="tolist() of the lengths of a batch, as flash attention's varlen path does",
    ),
    Plant(
        name="items_in_batch_read",
        kind="host reads",
        row="trainer",
        file=_TRAINER,
        old="num_items_in_batch = num_items_in_batch.to(device)\n\n                if self.args.n_gpu > 1",
        new="num_items_in_batch = torch.tensor(num_items_in_batch.to(device).item())\n\n                if self.args.n_gpu > 1",
        places=(f"{_TRAINER}:Trainer._get_num_items_in_batch",),
        like=".item() on the number of items of an optimizer step: transformers#36861",
    ),
    Plant(
        name="scaling_as_a_tensor",
        kind="host reads",
        row="lora",
        file=_LORA,
        old=_LORA_ADDS,
        new="                    scaling = torch.tensor(scaling, device=x.device).item()\n" + _LORA_ADDS,
        places=(f"{_LORA}:Linear.forward",),
        like=".item() of a scale in each adapter",
    ),
    # Blocks that are recomputed.
    Plant(
        name="checkpointing_off",
        kind="checkpointing",
        row="lora",
        file=_LAYERS,
        old="if self.gradient_checkpointing and self.training and",
        new="if self.gradient_checkpointing and not self.training and",
        places=(_BLOCK,),
        like="gradient checkpointing silently off: trl#999",
    ),
    Plant(
        name="checkpointing_of_half",
        kind="checkpointing",
        row="lora",
        file="transformers/modeling_utils.py",
        old='setattr(module, "gradient_checkpointing", layer_index % every_n_layers == 0)',
        new='setattr(module, "gradient_checkpointing", layer_index % (every_n_layers + 1) == 0)',
        places=(_BLOCK,),
        like="every second block is checkpointed: every_n_layers of transformers 5",
    ),
    Plant(
        name="recomputed_twice",
        kind="checkpointing",
        row="lora",
        file=_LLAMA,
        old=_MLP,
        new=_MLP.replace(
            "self.mlp(hidden_states)",
            "torch.utils.checkpoint.checkpoint(self.mlp, hidden_states, use_reentrant=False)",
        ),
        places=(f"{_LLAMA}:LlamaDecoderLayer.forward", f"{_LLAMA}:LlamaMLP.forward"),
        like="a checkpoint within a checkpoint: wrappers of Automodel#1621",
    ),
    # Types.
    Plant(
        name="lora_input_upcast",
        kind="dtype",
        row="lora",
        file=_LORA,
        old=_LORA_ADDS,
        new=_LORA_ADDS.replace("dropout(x)", "dropout(x.float()).to(lora_A.weight.dtype)"),
        places=(f"{_LORA}:Linear.forward",),
        like="the input of each adapter in fp32: peft#1706, axolotl#3310, AgileRL#623",
    ),
    Plant(
        name="norm_in_fp32",
        kind="dtype",
        row="lora",
        file=_LLAMA,
        old="        return self.weight * hidden_states.to(input_dtype)\n",
        new="        return (self.weight.float() * hidden_states).to(input_dtype)\n",
        places=(f"{_LLAMA}:LlamaRMSNorm.forward",),
        like="the weight of each norm in fp32: prepare_model_for_kbit_training, peft#3265",
    ),
    Plant(
        name="rotary_in_fp32",
        kind="dtype",
        row="lora",
        file=_LLAMA,
        old="    q_embed = (q * cos) + (rotate_half(q) * sin)\n    k_embed = (k * cos) + (rotate_half(k) * sin)\n"
        "    return q_embed, k_embed\n",
        new="    dtype, q, k = q.dtype, q.float(), k.float()\n"
        "    q_embed = (q * cos) + (rotate_half(q) * sin)\n    k_embed = (k * cos) + (rotate_half(k) * sin)\n"
        "    return q_embed.to(dtype), k_embed.to(dtype)\n",
        places=(f"{_LLAMA}:apply_rotary_pos_emb", f"{_LLAMA}:rotate_half"),
        like="rotary embeddings applied in fp32, as several models of transformers do",
    ),
    # Masks and which attention runs.
    Plant(
        name="mask_materialised",
        kind="masks",
        row="long",
        file=_MASKS,
        old="    if allow_is_causal_skip and _ignore_causal_mask_sdpa(",
        new="    if not allow_is_causal_skip and _ignore_causal_mask_sdpa(",
        places=(f"{_MASKS}:sdpa_mask", f"{_SDPA}:sdpa_attention_forward", f"{_SDPA}:repeat_kv"),
        like="a mask where SDPA had is_causal: transformers#30461, #30010",
    ),
    Plant(
        name="mask_by_vmap",
        kind="masks",
        row="padded",
        file=_MASKS,
        old="    if not use_vmap:\n        # Apply mask function element-wise through broadcasting\n        attention_mask = mask",
        new="    if use_vmap:\n        # Apply mask function element-wise through broadcasting\n        attention_mask = mask",
        places=(f"{_MASKS}:sdpa_mask", f"{_MASKS}:_vmap_expansion_sdpa", f"{_MASKS}:padding_mask_function"),
        like="masks built by vmap: transformers#41806, #41639",
    ),
    Plant(
        name="mask_for_each_head",
        kind="masks",
        row="padded",
        file=_SDPA,
        old=_SDPA_KEYS,
        new="    if attention_mask is not None:\n"
        "        attention_mask = torch.zeros(\n"
        "            *query.shape[:-1], key.shape[2], dtype=query.dtype, device=query.device\n"
        f"        ).masked_fill_(~attention_mask, torch.finfo(query.dtype).min)\n{_SDPA_KEYS}",
        places=(f"{_SDPA}:sdpa_attention_forward",),
        like="a float mask [B, H, S, S] in each attention call: unsloth-zoo#597",
    ),
    Plant(
        name="eager_for_sdpa",
        kind="masks",
        row="lora",
        file=_LLAMA,
        old=_ATTENDS,
        new=_ATTENDS.replace("attention_interface(", "eager_attention_forward("),
        places=("but eager ran", f"{_LLAMA}:eager_attention_forward", f"{_LLAMA}:LlamaAttention.forward"),
        like="a fast attention silently no longer switched on: transformers#28024",
    ),
    Plant(
        name="sdpa_of_math",
        kind="masks",
        row="lora",
        file=_SDPA,
        old="    attn_output = torch.nn.functional.scaled_dot_product_attention(\n        query,\n        key,\n        value,\n"
        "        attn_mask=attention_mask,\n",
        new="    from torch.nn.attention import SDPBackend, sdpa_kernel\n\n"
        "    with sdpa_kernel(SDPBackend.MATH):\n"
        "        attn_output = torch.nn.functional.scaled_dot_product_attention(\n"
        "            query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, is_causal=is_causal,\n"
        "            **sdpa_kwargs)\n"
        "    attn_output = attn_output if attn_output is not None else torch.nn.functional.scaled_dot_product_attention(\n"
        "        query,\n        key,\n        value,\n        attn_mask=attention_mask,\n",
        places=(
            "but sdpa-math ran",
            f"{_SDPA}:sdpa_attention_forward",
        ),
        like="SDPA falls back to its math kernel: pytorch#138386, transformers#30010",
    ),
    # What a step leaves behind.
    Plant(
        name="activations_kept",
        kind="leaks",
        row="lora",
        file=_LLAMA,
        old=_LAYER_BEGINS,
        new=_LAYER_BEGINS + '        self.__dict__.setdefault("_seen", []).append(hidden_states.detach())\n',
        places=(f"{_LLAMA}:LlamaDecoderLayer.forward", f"{_LLAMA}:LlamaRMSNorm.forward"),
        like="activations that grow a list with each step",
    ),
    Plant(
        name="losses_with_graphs",
        kind="leaks",
        row="lora",
        file=_LOSS,
        old="    loss = fixed_cross_entropy(logits, shift_labels, num_items_in_batch, ignore_index, **kwargs)\n    return loss\n",
        new="    loss = fixed_cross_entropy(logits, shift_labels, num_items_in_batch, ignore_index, **kwargs)\n"
        '    ForCausalLMLoss.__dict__.setdefault("losses", []).append(loss)\n    return loss\n',
        places=(f"{_LOSS}:ForCausalLMLoss", f"{_LOSS}:fixed_cross_entropy"),
        like="a list of losses that keep their graphs",
    ),
    Plant(
        name="outputs_kept_by_a_hook",
        kind="leaks",
        row="lora",
        file=_LLAMA,
        old="        logits = self.lm_head(hidden_states)\n\n        loss = None\n",
        new='        if "_outputs" not in self.__dict__:\n            self.__dict__["_outputs"] = []\n'
        "            self.lm_head.register_forward_hook(lambda _module, _inputs, output: self._outputs.append(output))\n"
        "        logits = self.lm_head(hidden_states)\n\n        loss = None\n",
        places=(f"{_LLAMA}:LlamaForCausalLM.forward",),
        like="a forward hook that captures outputs and lets none go: Automodel#1621",
    ),
    # The optimizer.
    Plant(
        name="gradients_zeroed",
        kind="optimizer",
        row="lora",
        file="torch/optim/optimizer.py",
        old="                        if set_to_none:\n                            p.grad = None\n",
        new="                        if not set_to_none:\n                            p.grad = None\n",
        places=("torch/optim/optimizer.py:Optimizer.zero_grad",),
        like="gradients set to zeros that stay, as before torch 2.0",
    ),
    Plant(
        name="gradients_copied",
        kind="optimizer",
        row="full",
        file=_ADAM,
        old="                grads.append(p.grad)\n",
        new="                grads.append(p.grad.clone())\n",
        places=(f"{_ADAM}:Adam._init_group",),
        like="a copy of all gradients in the optimizer step",
    ),
    Plant(
        name="third_state",
        kind="optimizer",
        row="full",
        file=_ADAM,
        old='                    if group["amsgrad"]:\n                        # Maintains',
        new="                    if True:\n                        # Maintains",
        places=(f"{_ADAM}:Adam._init_group", "max_exp_avg_sq of the optimizer"),
        like="a third state of each parameter, which nobody reads",
    ),
    Plant(
        name="foreach_by_default",
        kind="optimizer",
        row="full",
        file=_ADAM,
        old="    if foreach is None:\n        foreach = False\n\n    # this check is slow",
        new="    if not foreach:\n        foreach = True\n\n    # this check is slow",
        places=(f"{_ADAM}:adam", f"{_ADAM}:_multi_tensor_adam"),
        like="foreach AdamW by default, with its intermediates: pytorch#97712",
    ),
    Plant(
        name="base_weights_trained",
        kind="optimizer",
        row="plain",
        file="peft/tuners/tuners_utils.py",
        old="            p.requires_grad = False\n\n        for active_adapter in self.active_adapters:\n",
        new='            p.requires_grad = "down_proj" in n\n\n        for active_adapter in self.active_adapters:\n',
        places=("trainable_parameters", "peft/tuners/tuners_utils.py", f"{_LLAMA}:LlamaMLP.forward"),
        like="gradients and states of weights that should be frozen: bitsandbytes 0.43.3's mend",
    ),
    # The loop.
    Plant(
        name="loss_logged_each_step",
        kind="loop",
        row="trainer",
        file=_TRAINER,
        old="                self.current_flos += float(self.floating_point_ops(inputs))\n",
        new="                self.state.last_loss = tr_loss_step.item()\n"
        "                self.current_flos += float(self.floating_point_ops(inputs))\n",
        places=(f"{_TRAINER}:Trainer._run_epoch",),
        like=".item() of the loss after each micro-batch, for a log",
    ),
    Plant(
        name="norm_computed_twice",
        kind="loop",
        row="full-trainer",
        file="accelerate/accelerator.py",
        old="        if len(mesh_groups) + bool(plain_params) <= 1:\n            return",
        new="        torch.nn.utils.get_total_norm([p.grad for p in plain_params], norm_type)\n"
        "        if len(mesh_groups) + bool(plain_params) <= 1:\n            return",
        places=("accelerate/accelerator.py:Accelerator._clip_grad_norm_dtensor_aware",),
        like="the norm of the gradients for the log and again for clipping",
    ),
    Plant(
        name="labels_counted_in_python",
        kind="loop",
        row="trainer",
        file=_TRAINER,
        old="                num_items_in_batch = sum(labels.ne(-100).sum() for labels in labels_for_count)\n",
        new="                num_items_in_batch = torch.tensor(\n"
        "                    sum(label != -100 for labels in labels_for_count for row in labels.tolist() for label in row)\n"
        "                )\n",
        places=(f"{_TRAINER}:Trainer._get_num_items_in_batch",),
        like="a Python loop over the tokens of a batch",
    ),
    Plant(
        name="state_copied_for_callbacks",
        kind="loop",
        row="trainer",
        file="transformers/trainer_callback.py",
        old="        for callback in self.callbacks:\n            result = getattr(callback, event)(\n",
        new="        import copy\n\n        for callback in self.callbacks:\n            copy.deepcopy(args.to_dict())\n"
        "            result = getattr(callback, event)(\n",
        places=("transformers/trainer_callback.py:CallbackHandler.call_event",),
        like="the arguments copied for each callback",
    ),
    # Less work, which is no improvement.
    Plant(
        name="adapters_skipped",
        kind="less work",
        row="lora",
        file=_LORA,
        old="                if active_adapter not in lora_A_keys:\n                    continue\n\n                lora_A =",
        new="                if active_adapter in lora_A_keys:\n                    continue\n\n                lora_A =",
        places=(
            f"{_LORA}:Linear.forward",
            "grad_norm",
        ),
        like="adapters silently inactive",
    ),
    Plant(
        name="adapters_of_one_layer",
        kind="less work",
        row="lora",
        file="peft/tuners/tuners_utils.py",
        old='        layer_indexes = getattr(config, "layers_to_transform", None)\n',
        new='        layer_indexes = getattr(config, "layers_to_transform", None) or [0]\n',
        places=("trainable_parameters",),
        like="targets matched in the first layer only",
    ),
    Plant(
        name="tokens_dropped",
        kind="less work",
        row="trainer",
        file=_TRAINER,
        old="        inputs = self._prepare_input(inputs)\n        if len(inputs) == 0:\n",
        new="        inputs = self._prepare_input(inputs)\n"
        "        inputs = {name: value[:, value.shape[1] // 2 :] for name, value in inputs.items()}\n"
        "        if len(inputs) == 0:\n",
        places=(f"{_TRAINER}:Trainer._prepare_inputs", "loss", "tokens_per_sample"),
        like="samples cut to half of their tokens",
    ),
    Plant(
        name="samples_dropped",
        kind="less work",
        row="padded",
        file=_LLAMA,
        old="        outputs: BaseModelOutputWithPast = self.model(\n            input_ids=input_ids,\n",
        new="        input_ids, labels = input_ids[:1], labels[:1]\n"
        "        attention_mask = None if attention_mask is None else attention_mask[:1]\n"
        "        outputs: BaseModelOutputWithPast = self.model(\n            input_ids=input_ids,\n",
        places=(f"{_LLAMA}:LlamaForCausalLM.forward", "loss", "samples", "grad_norm"),
        like="one sample of each batch trained, as with a wrong per-device batch size",
    ),
    Plant(
        name="layer_dropped",
        kind="less work",
        row="lora",
        file=_LLAMA,
        old="        for decoder_layer in self.layers[: self.config.num_hidden_layers]:\n",
        new="        for decoder_layer in self.layers[: self.config.num_hidden_layers - 1]:\n",
        places=(f"{_LLAMA}:LlamaModel.forward", "loss", "grad_norm", _BLOCK),
        like="the last block left out",
    ),
    # Held out.
    Plant(
        name="gradient_cloned_by_a_hook",
        kind="operators",
        row="lora",
        file=_SDPA,
        old=_SDPA_KEYS,
        new=f"    if value.requires_grad:\n        value.register_hook(lambda grad: grad.clone())\n{_SDPA_KEYS}",
        places=(f"{_SDPA}:sdpa_attention_forward",),
        like="a copy of a gradient in the backward pass of attention only",
        held_out=True,
    ),
    Plant(
        name="mask_built_by_layer",
        kind="masks",
        row="padded",
        file=_LLAMA,
        old="                attention_mask=causal_mask,\n                position_embeddings=position_embeddings,\n",
        new="                attention_mask=create_causal_mask(\n"
        "                    config=self.config,\n                    inputs_embeds=inputs_embeds,\n"
        "                    attention_mask=attention_mask,\n                    cache=cache,\n"
        "                    position_ids=position_ids,\n                ),\n"
        "                position_embeddings=position_embeddings,\n",
        places=(f"{_LLAMA}:LlamaModel.forward", f"{_MASKS}:"),
        like="the same mask built anew for each layer",
        held_out=True,
    ),
    Plant(
        name="activations_in_a_closure",
        kind="leaks",
        row="lora",
        file=_LLAMA,
        old="        down_proj = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))\n",
        new="        gate = self.act_fn(self.gate_proj(x))\n"
        '        self.__dict__["describe"] = lambda: gate.shape\n'
        "        down_proj = self.down_proj(gate * self.up_proj(x))\n",
        places=(f"{_LLAMA}:LlamaMLP.forward", "transformers/activations.py:"),
        like="a closure that holds the last activation, and its graph, of each layer",
        held_out=True,
    ),
    Plant(
        name="norm_checked_for_nan",
        kind="host reads",
        row="lora",
        file="torch/nn/utils/clip_grad.py",
        old="    if error_if_nonfinite and torch.logical_or(",
        new="    if torch.logical_or(",
        places=("torch/nn/utils/clip_grad.py:_get_total_norm",),
        like="the norm of the gradients read by the host in each step, as error_if_nonfinite does",
        held_out=True,
    ),
    Plant(
        name="batch_listed_again",
        kind="loop",
        row="trainer",
        file="accelerate/data_loader.py",
        old="                self._update_state_dict()\n                next_batch = next(dataloader_iter)\n"
        "                if batch_index >= self.skip_batches:\n                    yield current_batch\n"
        "                batch_index += 1\n                current_batch = next_batch\n",
        new="                current_batch = {\n"
        "                    name: torch.tensor([[int(one) for one in row] for row in value.tolist()])\n"
        "                    for name, value in current_batch.items()\n                }\n"
        "                self._update_state_dict()\n                next_batch = next(dataloader_iter)\n"
        "                if batch_index >= self.skip_batches:\n                    yield current_batch\n"
        "                batch_index += 1\n                current_batch = next_batch\n",
        places=("accelerate/data_loader.py:DataLoaderShard.__iter__",),
        like="batches that are made into lists and padded again",
        held_out=True,
    ),
    Plant(
        name="warnings_caught",
        kind="host Python",
        row="lora",
        file=_LLAMA,
        old="        input_shape = hidden_states.shape[:-1]\n        hidden_shape = (*input_shape, -1, self.head_dim)\n",
        new="        import warnings\n\n        with warnings.catch_warnings():\n"
        '            warnings.filterwarnings("ignore", message=".*")\n'
        "            input_shape = hidden_states.shape[:-1]\n"
        "        hidden_shape = (*input_shape, -1, self.head_dim)\n",
        places=(f"{_LLAMA}:LlamaAttention.forward",),
        like="warnings silenced in each call",
        held_out=True,
    ),
    Plant(
        name="logits_projected_in_fp32",
        kind="dtype",
        row="lora",
        file=_LLAMA,
        old="        logits = self.lm_head(hidden_states)\n\n        loss = None\n",
        new="        logits = nn.functional.linear(hidden_states.float(), self.lm_head.weight.float())\n\n        loss = None\n",
        places=(f"{_LLAMA}:LlamaForCausalLM.forward",),
        like="the head cast to fp32 in each forward",
        held_out=True,
    ),
    Plant(
        name="collected_each_step",
        kind="loop",
        row="trainer",
        file=_TRAINER,
        old="\n\n        cp_context, inputs = self._prepare_context_parallel_inputs(model, inputs)\n",
        new="\n\n        import gc\n\n        gc.collect()\n"
        "        cp_context, inputs = self._prepare_context_parallel_inputs(model, inputs)\n",
        places=(f"{_TRAINER}:Trainer.training_step",),
        like="a collection of garbage in each step: a wait of the host that counts nothing",
        held_out=True,
    ),
)
