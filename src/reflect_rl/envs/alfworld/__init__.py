"""ALFWorld's text games: an exact and fast engine, the real one beside it, experts, and the world built on them.

    from reflect_rl.envs.alfworld import FastAlfred

    game = FastAlfred("path/to/game.tw-pddl")
    print(game.reset())
    print(game.step("go to fridge 1"), game.admissible, game.won)

This package stands alone: nothing in it needs a model, torch, or the rest of the library's training code.
"""

from reflect_rl.envs.alfworld.engine import FastAlfred
from reflect_rl.envs.alfworld.game import GameFile, GameFileError, TextGame, read_game

__all__ = ["FastAlfred", "GameFile", "GameFileError", "TextGame", "read_game"]
