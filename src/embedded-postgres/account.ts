/** The account PostgreSQL runs under. PostgreSQL refuses to run as root, and an ordinary account cannot reach files below
 *  a directory that only root may enter (`/root`, `mktemp -d`). So root starts it through one of two wrappers. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const run = promisify(execFile)

export interface Account {
  /** Who must own the data directory; undefined: whoever creates it. */
  readonly owner: { readonly uid: number; readonly gid: number } | undefined
  /** @returns program and arguments that run `command` under this account. */
  wrap(command: readonly [string, ...string[]]): [string, ...string[]]
}

const asWeAre: Account = { owner: undefined, wrap: (command) => [...command] }

const NOBODY = '65534'

const forRoot: readonly Account[] = [
  // A user namespace without a mapping: PostgreSQL sees another user ID, while files still belong to the same owner.
  { owner: { uid: 0, gid: 0 }, wrap: (command) => ['unshare', '--user', '--', ...command] },
  // Containers often forbid user namespaces. Here PostgreSQL is `nobody` with the one right to pass directories that
  // belong to others. Without no_setuid_fixup access(2) would not count that right.
  {
    owner: { uid: 65534, gid: 65534 },
    wrap: (command) => [
      'setpriv',
      `--reuid=${NOBODY}`,
      `--regid=${NOBODY}`,
      '--clear-groups',
      '--inh-caps=+dac_override',
      '--ambient-caps=+dac_override',
      '--securebits=+no_setuid_fixup',
      '--',
      ...command,
    ],
  },
]

/** Finds an account that can run `postgres` and write in `directory`.
 *  @throws Error saying what to do, when this process is root and no wrapper works here. */
export const findAccount = async (postgres: string, directory: string): Promise<Account> => {
  if (process.geteuid?.() !== 0) return asWeAre
  const failures: string[] = []
  for (const account of forRoot) {
    const probe = 'touch "$1/.probe" && rm "$1/.probe" && "$0" --version && [ "$(id -u)" != 0 ]'
    const [program, ...args] = account.wrap(['sh', '-c', probe, postgres, directory])
    try {
      await run(program, args)
      return account
    } catch (error) {
      failures.push(`${program}: ${(error as { stderr?: string }).stderr?.trim() || String(error)}`)
    }
  }
  throw new Error(
    'PostgreSQL does not run as root, and neither "unshare --user" nor "setpriv" could give it another account here. ' +
      `Run this as an ordinary user, or set DATABASE_URL to a PostgreSQL server of your own.\n${failures.join('\n')}`,
  )
}
