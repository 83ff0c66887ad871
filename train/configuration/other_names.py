"""Names of settings and values in other systems, and ours for them. Used only in messages about mistakes.

The names come from Hugging Face's Trainer and configurations, Megatron, torchtitan and nanotron. A name is looked up
by the last part of a key, in lower case, with _ for -; an entry is a key of ours, or a sentence with the alternative.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

_RATE = "schedule.learning_rate"
_STAGE = "schedule.stages.NAME"
_DATA_RANKS = "the number of data ranks is the world size divided by the other axes; start more or fewer ranks"
_TOKENIZER = "give the tokenizer to `ropewalk prepare --tokenizer FILE`, before the run"
_IMPORT = (
    "`ropewalk import --model DIR --output imported` makes a checkpoint of a released model; give "
    "model=from_huggingface checkpoint.resume=imported"
)
_ROWS: Sequence[tuple[str, str]] = (
    # Learning rate and optimizer.
    ("lr learning_rate max_lr base_lr", f"{_RATE}.peak"),
    ("min_lr lr_end end_lr final_lr min_decay_lr", f"{_RATE}.final"),
    ("lr_scheduler lr_scheduler_type lr_decay_style decay_type scheduler", f"{_RATE}.shape"),
    (
        "warmup warmup_steps warmup_ratio num_warmup_steps lr_warmup_steps lr_warmup_iters lr_warmup_fraction "
        "lr_warmup_samples warmup_iters",
        f"{_RATE}.warmup_tokens",
    ),
    (
        "lr_decay_iters lr_decay_steps decay_steps decay_ratio lr_wsd_decay_iters",
        f"{_RATE}.decay_tokens",
    ),
    ("optim optimizer_name optimizer_type", "optimizer.name"),
    ("adam_beta1 betas", "optimizer.beta1"),
    ("adam_beta2", "optimizer.beta2"),
    ("adam_epsilon adam_eps eps", "optimizer.epsilon"),
    ("wd", "optimizer.weight_decay"),
    ("grad_clip clip_grad max_grad_norm max_norm gradient_clip_val", "optimizer.gradient_clipping"),
    # Length of the run, batches, sequences.
    (
        "epochs num_epochs num_train_epochs train_samples train_tokens max_tokens",
        f"{_STAGE}.tokens",
    ),
    ("steps train_iters train_steps max_iters num_steps total_steps iterations", "train.max_steps"),
    (
        "batch_size global_batch_size train_batch_size per_device_batch_size gradient_accumulation_steps "
        "gradient_accumulation batch_accumulation_per_replica grad_acc_steps accumulate_grad_batches",
        f"{_STAGE}.batch_tokens",
    ),
    (
        "micro_batch_size microbatch_size per_device_train_batch_size train_micro_batch_size_per_gpu local_batch_size",
        f"{_STAGE}.micro_batch_tokens",
    ),
    (
        "per_device_eval_batch_size eval_batch_size",
        "evaluation uses the micro-batches of its stage",
    ),
    (
        "seq_len seq_length max_seq_len max_seq_length max_length context_length context block_size n_ctx "
        "max_position_embeddings model_max_length cutoff_len",
        f"{_STAGE}.sequence_length",
    ),
    # Model.
    ("rope_theta rotary_base theta rope_base", f"{_STAGE}.rope_base"),
    ("rope_scaling rope_parameters rope_type", "model.kinds.full_rope.rope.scaling"),
    (
        "partial_rotary_factor rotary_pct rotary_percent rope_pct rope_percent rotary_dim",
        "model.kinds.NAME.rope.rotary_share",
    ),
    ("short_factor", "model.kinds.NAME.rope.short_factors"),
    ("long_factor", "model.kinds.NAME.rope.long_factors"),
    ("original_max_position_embeddings", "model.kinds.NAME.rope.original_length"),
    (
        "attn_temperature_tuning attn_scale floor_scale llama_4_scaling llama_4_scaling_beta ssmax",
        "model.kinds.NAME.position_scale",
    ),
    ("sliding_window window_size", "model.window"),
    ("attention_chunk_size chunk_size", "model.chunk"),
    ("num_hidden_layers n_layers n_layer depth", "model.num_layers"),
    ("d_model dim n_embd embed_dim hidden_dim", "model.hidden_size"),
    ("ffn_hidden_size ffn_dim d_ff", "model.intermediate_size"),
    ("num_attention_heads n_heads n_head", "model.num_heads"),
    ("num_key_value_heads num_query_groups n_kv_heads", "model.num_kv_heads"),
    ("kv_channels", "model.head_dim"),
    ("layer_types no_rope_layers position_embedding_type", "model.layer_pattern"),
    ("normalization norm_type", "model.norm"),
    ("rms_norm_eps layer_norm_eps layer_norm_epsilon norm_epsilon", "model.norm_eps"),
    ("hidden_act activation_function", "model.activation"),
    ("tie_word_embeddings untie_embeddings_and_output_weights", "model.tie_embeddings"),
    ("initializer_range init_method_std", "model.init_std"),
    (
        "attn_implementation use_flash_attention flash_attn use_flash_attn",
        "model.attention_backend",
    ),
    ("model_name_or_path model_name pretrained_model_name_or_path model_path hf_path", _IMPORT),
    # Precision, memory, device.
    (
        "dtype torch_dtype bf16 fp16 mixed_precision mixed_precision_param params_dtype",
        "train.precision",
    ),
    (
        "gradient_checkpointing activation_checkpointing activation_checkpoint recompute recompute_granularity "
        "recompute_activations recompute_method checkpoint_activations selective_ac_option",
        "train.keep_for_backward",
    ),
    ("recompute_num_layers", "train.recompute_layers"),
    ("compile torch_compile use_compile", "train.compile_regions"),
    ("cuda gpu no_cuda use_cpu accelerator", "train.device"),
    ("full_determinism deterministic_mode use_deterministic_algorithms", "train.deterministic"),
    ("skip_bad_steps max_bad_steps", "train.max_skipped_steps"),
    # Layout.
    (
        "tp tp_size tensor_parallel tensor_parallel_size tensor_parallel_degree tensor_model_parallel_size",
        "parallel.tensor",
    ),
    (
        "pp pp_size pipeline_parallel pipeline_parallel_size pipeline_parallel_degree pipeline_model_parallel_size",
        "parallel.pipeline",
    ),
    (
        "cp cp_size sp_size context_parallel context_parallel_size context_parallel_degree sequence_parallel_size "
        "ring_attention",
        "parallel.sequence",
    ),
    (
        "sp sequence_parallel",
        "ranks that share a stream are parallel.sequence; the residual stream is cut by tokens wherever "
        "parallel.tensor is above 1",
    ),
    (
        "dp dp_size data_parallel_size data_parallel_degree data_parallel_replicate_degree nproc gpus",
        _DATA_RANKS,
    ),
    (
        "zero zero_optimization stage fsdp data_parallel_shard_degree use_distributed_optimizer deepspeed "
        "deepspeed_config",
        "parallel.zero_stage",
    ),
    ("reduce_bucket_size allgather_bucket_size", "parallel.bucket_elements"),
    ("pp_schedule pipeline_parallel_schedule pp_engine", "parallel.pipeline_schedule"),
    (
        "ddp_timeout distributed_timeout_minutes init_timeout_seconds train_timeout_seconds",
        "parallel.timeout_seconds",
    ),
    # Data.
    (
        "path data_path train_data_path dataset dataset_path dataset_name train_file data_dir",
        "data.sources.NAME.prefix",
    ),
    ("valid_data_path validation_file eval_dataset", "data.heldout"),
    (
        "split validation_split",
        "`ropewalk prepare --heldout-output PREFIX --heldout-fraction F` splits the documents",
    ),
    (
        "tokenizer tokenizer_name tokenizer_path tokenizer_model tokenizer_type vocab_file",
        _TOKENIZER,
    ),
    ("num_workers dataloader_num_workers prefetch_factor", "data.prefetch"),
    # Checkpoints, evaluation, records.
    ("output_dir out_dir save save_dir dump_folder checkpoints_path log_dir", "paths.outputs"),
    (
        "save_steps save_interval save_every checkpoint_interval interval save_strategy",
        "checkpoint.every_steps",
    ),
    ("save_total_limit keep_latest_k max_to_keep", "checkpoint.keep"),
    (
        "load load_dir resume resume_from resume_from_checkpoint init_from resume_checkpoint_path",
        "checkpoint.resume",
    ),
    (
        "eval_steps eval_interval eval_every eval_strategy evaluation_strategy val_check_interval",
        "evaluation.every_steps",
    ),
    ("eval_iters max_eval_samples limit_val_batches", "evaluation.max_tokens"),
    ("report_to use_wandb enable_wandb wandb_mode", "logging.wandb.mode"),
    ("wandb_project", "logging.wandb.project"),
    ("wandb_entity", "logging.wandb.entity"),
    ("log_interval log_freq logging_steps log_every", "logging.console_seconds"),
    ("exp_name job_name experiment_name", "run_name"),
)
OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {name: meaning for names, meaning in _ROWS for name in names.split()}
)
# Values of a choice: the first of ours that the choice has is suggested.
_VALUES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "gpu": ("cuda",),
        "bf16": ("bfloat16",),
        "fp32": ("float32",),
        "true": ("always", "online", "everything"),
        "false": ("never", "disabled", "none", "ignore", "everything"),
        "adam": ("adamw",),
        "adamw_torch": ("adamw",),
        "adamw_torch_fused": ("adamw",),
        "rms": ("rmsnorm",),
        "sdpa": ("auto",),
        "eager": ("dense",),
        "flash_attention_2": ("flash_attn",),
        "full": ("input",),
        "selective": ("attention",),
        "swiglu": ("silu",),
        "gelu": ("gelu_tanh",),
        "pi": ("linear",),
        "dynamic": ("dynamic_ntk",),
        "su": ("longrope",),
        "default": ("none",),
        "cosine_with_min_lr": ("cosine",),
    }
)


def meaning_of(key: str) -> str:
    """Returns our key for a key of another system, or a sentence; "" if the name is not known."""
    return OTHER_NAMES.get(key.split(".")[-1].lower().replace("-", "_"), "")


def other_name_hint(name: str) -> str:
    """Returns the end of a message about an unknown key; "" if no other system has that name."""
    meaning = meaning_of(name)
    if not meaning:
        return ""
    return f"; {meaning}" if " " in meaning else f"; did you mean {meaning}?"


def value_here(value: object, choices: Iterable[str]) -> str:
    """Returns the one of `choices` that a value of another system means; "" if none is known."""
    wanted = _VALUES.get(str(value).lower(), ())
    return next((choice for choice in wanted if choice in set(choices)), "")
