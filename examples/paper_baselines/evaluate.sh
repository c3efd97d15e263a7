#!/bin/sh
# The models that the ASPO paper trains, and those it compares at 1.5B, on its benchmarks: evals/MODEL/, then two tables.
# Arguments go to every `aspo eval`, e.g. rollout.engine=sglang rollout.servers.count=8. Goes on where it was ended.
set -e

math=aime24,aime25,amc23,math500,minerva,olympiad
code=livecodebench-v5,livecodebench-v6

evaluate() { # NAME MODEL BENCHMARKS [SETTINGS]
    name=$1 model=$2 benchmarks=$3
    shift 3
    aspo eval "$model" --label "$name" --benchmark "$benchmarks" model.dtype=bfloat16 "$@"
}

without_thinking() { # as evaluate; the paper has all Qwen3 models so (section 7.1, footnote 1)
    evaluate "$@" 'data.chat_template_kwargs={enable_thinking: false}'
}

evaluate base deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B $math,$code "$@"
evaluate deepscaler agentica-org/DeepScaleR-1.5B-Preview $math "$@"
evaluate deepcoder agentica-org/DeepCoder-1.5B-Preview $code "$@"
evaluate fastcurl Nickyang/FastCuRL-1.5B-V3 $math "$@"
evaluate nemotron-v1 nvidia/Nemotron-Research-Reasoning-Qwen-1.5B@v1 $math,$code "$@"
evaluate nemotron-v2 nvidia/Nemotron-Research-Reasoning-Qwen-1.5B@v2 $math,$code "$@"
evaluate archer-code Fate-Zero/Archer-Code-1.5B $code "$@"
evaluate aspo-math Fate-Zero/Archer2.0-Math-1.5B-Preview $math "$@"
evaluate aspo-code Fate-Zero/Archer2.0-Code-1.5B-Preview $code "$@"
without_thinking qwen3-4b Qwen/Qwen3-4B $math,$code "$@"
without_thinking qwen3-8b Qwen/Qwen3-8B $math "$@"
without_thinking qwen3-30b-a3b Qwen/Qwen3-30B-A3B $math "$@"

aspo table evals --thinking on
aspo table evals --thinking off --published 4B,8B,30B
