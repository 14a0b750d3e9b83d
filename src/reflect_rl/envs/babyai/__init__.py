"""BabyAI's levels as text: needs minigrid."""
