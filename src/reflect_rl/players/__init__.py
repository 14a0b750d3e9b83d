"""Who acts: prompts, language models, the policy and the reflectors."""
