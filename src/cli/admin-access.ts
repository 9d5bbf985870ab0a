/** What commands on the admin API share: where it is, the token, and the client made of both. */
import type { Command } from 'commander'
import { createAdminClient, type AdminClient } from '../client/admin-client.ts'
import { environmentOption, need, readNamedFile, talk, withTalkOptions } from './terminal.ts'

export interface AdminOptions {
  readonly admin?: string
  readonly tokenFile?: string
  readonly ca?: string
  readonly deadlineMs: number
  readonly json?: boolean
}

/** The options every such command has. */
export const withAdminOptions = (command: Command): Command =>
  withTalkOptions(command)
    .addOption(environmentOption('--admin <url>', 'KME_ADMIN_URL', 'admin API of the KME, such as https://localhost:8461'))
    .addOption(environmentOption('--token-file <file>', 'KME_ADMIN_TOKEN_FILE', 'file with a token made by "kme admin token"'))

/** Runs work with a client, and closes it. */
export const asAdmin = (options: AdminOptions, work: (client: AdminClient) => Promise<void>): Promise<void> =>
  talk(async () => {
    const client = createAdminClient({
      url: need(options.admin, '--admin', 'KME_ADMIN_URL'),
      token: readNamedFile(need(options.tokenFile, '--token-file', 'KME_ADMIN_TOKEN_FILE'), '--token-file').trim(),
      caPem: readNamedFile(need(options.ca, '--ca', 'KME_CA'), '--ca'),
      deadlineMs: options.deadlineMs,
    })
    try {
      await work(client)
    } finally {
      client.close()
    }
  })
