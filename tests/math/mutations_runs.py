"""Mistakes in how a run is held: adapters, spread weights, the gradient's norm, the estimate of memory."""

from __future__ import annotations

from mutation import Mutation, named

ADAPTER = "tests/trainer/test_adapter.py"
MEMORY = "tests/trainer/test_memory.py"
OPTIMISER = "tests/trainer/test_optimiser.py"
SPREAD = named("tests/trainer/test_distributed.py", "test_spread_weights_take_the_same_step_as_one_process[False]")

MUTATIONS: list[Mutation] = [
    Mutation(
        "trainer/step.py",
        "states[REFERENCE] = switched_off(policy)",
        "states[REFERENCE] = replaced(policy.model, None)",
        "adapter: the policy is its own reference",
        named(
            "tests/trainer/test_adapter_run.py",
            "test_the_model_without_its_adapters_is_the_reference_where_the_lake_has_no_scores_of_the_start",
        ),
    ),
    Mutation(
        "trainer/adapter.py",
        "delta = delta * layer.scaling[NAME]",
        "delta = delta * 1.0",
        "adapter: merged without alpha/rank",
        named(ADAPTER, "test_adapters_start_as_nothing_and_merge_to_the_same_log_probabilities"),
    ),
    Mutation(
        "trainer/adapter.py",
        "delta.T if layer.fan_in_fan_out else delta",
        "delta",
        "adapter: GPT-2's matrices are merged as if they lay the other way",
        named(ADAPTER, "test_adapters_start_as_nothing_and_merge_to_the_same_log_probabilities"),
    ),
    Mutation(
        "trainer/adapter.py",
        "layer._disable_adapters = True",
        "layer._disable_adapters = False",
        "adapter: switched off changes nothing, so the start is the present",
        named(ADAPTER, "test_switched_off_is_the_start_and_gradients_still_reach_the_adapters"),
    ),
    Mutation(
        "trainer/adapter.py",
        "parameter.data = parameter.data.float()",
        "parameter.data = parameter.data",
        "adapter: half-precision adapters over a half-precision model",
        named(ADAPTER, "test_adapters_stay_in_float32_over_half_precision"),
    ),
    Mutation(
        "trainer/adapter.py",
        "parameters > LARGE",
        "parameters >= LARGE",
        "adapter: the default holds at 3 billion already",
        named(ADAPTER, "test_adapters_are_the_default_of_large_models_alone"),
    ),
    Mutation(
        "trainer/fsdp.py",
        "set_gradient_divide_factor(1.0)",
        "set_gradient_divide_factor(2.0)",
        "fsdp: gradients are averaged over processes",
        SPREAD,
    ),
    Mutation(
        "trainer/optimiser.py",
        "gradient.mul_(clip / norm)",
        "gradient.mul_(clip)",
        "clipping: by the bound alone, not by bound over norm",
        named(OPTIMISER, "test_a_gradient_above_the_norm_is_scaled_to_it_and_its_own_norm_is_told"),
    ),
    Mutation(
        "trainer/memory.py",
        '(2 if settings.name == "adamw" else 0)',
        '(1 if settings.name == "adamw" else 0)',
        "memory: AdamW keeps two moments",
        named(MEMORY, "test_each_part_by_hand"),
    ),
    Mutation(
        "trainer/memory.py",
        "trained = shape.adapter * settings.lora.rank if lora",
        "trained = shape.adapter if lora",
        "memory: adapters of rank 1",
        named(MEMORY, "test_adapters_leave_the_weights_and_train_their_own_alone"),
    ),
]
