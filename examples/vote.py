"""A secret ballot: each party votes yes or no, and only the result is opened.

Each vote is shared secretly as 1 (yes) or 0 (no); the shares are added up without opening any of
them. By default the tally is opened. With --majority the parties open less: only whether more
than half of them said yes.

Note what any result tells: if all say yes, everyone knows how everyone voted; and with the tally,
whoever knows the votes of all but one knows the last one too.

    python vote.py -M3 --vote yes            three local parties that all say yes
    quorate demo vote                        three separate parties with votes of their own

--vote is private, each party gives its own. --majority is public, all have to give it or none.
"""

import argparse
import sys

from mpyc.runtime import mpc


def options():
    """What is left of the command line after MPyC took its own options."""
    parser = argparse.ArgumentParser(description='Vote yes or no in secret.')
    parser.add_argument('--vote', required=True, choices=('yes', 'no'), help='your vote; private')
    parser.add_argument('--majority', action='store_true',
                        help='open only whether more than half said yes, not the tally')
    return parser.parse_args()


async def main():
    """Add up the votes and open what was agreed."""
    found = options()
    voters = len(mpc.parties)
    secint = mpc.SecInt(16)
    async with mpc:
        yes = mpc.sum(mpc.input(secint(int(found.vote == 'yes'))))
        if found.majority:
            accepted = await mpc.output(2 * yes > voters)
            print('accepted' if accepted else 'not accepted')
        else:
            yes = int(await mpc.output(yes))
            print(f'yes {yes}, no {voters - yes}')


if __name__ == '__main__':
    sys.exit(mpc.run(main()))
