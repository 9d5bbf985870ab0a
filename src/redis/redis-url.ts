/** Where Redis is, written as one URL:
 *
 *  - `redis://user:password@host:6379/0`, one server; `rediss://` with TLS
 *  - `redis+sentinel://host:26379,host2:26379/NAME`, the primary that Sentinel calls NAME; `/NAME/2` for database 2
 *  - `redis+cluster://host:7000,host2:7001`, a Redis Cluster */

export interface RedisPlace {
  readonly kind: 'single' | 'sentinel' | 'cluster'
  readonly tls: boolean
  readonly username: string | undefined
  readonly password: string | undefined
  readonly hosts: readonly { readonly host: string; readonly port: number }[]
  /** What Sentinel calls the primary. */
  readonly name: string
  readonly db: number
}

const FORM = /^(rediss?)(?:\+(sentinel|cluster))?:\/\/(?:([^:@/]*)(?::([^@/]*))?@)?([^/@]+)(?:\/([^?#]*))?$/
const DEFAULT_PORT = { single: 6379, sentinel: 26_379, cluster: 6379 }

/** @throws Error that never repeats the URL: it may hold a password. */
export const parseRedisUrl = (url: string): RedisPlace => {
  const refuse = (why: string): never => {
    throw new Error(
      `the Redis URL ${why}; it looks like redis://host:6379, redis+sentinel://host:26379/NAME or redis+cluster://host:7000`,
    )
  }
  const [, scheme, kindText, user, password, hostList = '', path = ''] = FORM.exec(url) ?? refuse('cannot be read')
  const kind = (kindText ?? 'single') as RedisPlace['kind']
  const hosts = hostList.split(',').map((text) => {
    const [, host, portText] = /^(\[[^\]]+\]|[^:]+)(?::(\d{1,5}))?$/.exec(text) ?? refuse('names a host that cannot be read')
    return {
      host: (host as string).replace(/^\[|\]$/g, ''),
      port: portText === undefined ? DEFAULT_PORT[kind] : Number(portText),
    }
  })
  if (kind === 'single' && hosts.length > 1) refuse('names several hosts without saying whether they are Sentinels or a Cluster')
  const [first = '', second = ''] = path.split('/')
  if (kind === 'sentinel' && first === '') refuse('does not say what Sentinel calls the primary')
  if (kind === 'cluster' && first !== '' && first !== '0') refuse('names a database, and a Cluster has none')
  const dbText = kind === 'sentinel' ? second : first
  if (!/^\d*$/.test(dbText)) refuse('names a database that is no number')
  return {
    kind,
    tls: scheme === 'rediss',
    username: user === undefined || user === '' ? undefined : decodeURIComponent(user),
    password: password === undefined || password === '' ? undefined : decodeURIComponent(password),
    hosts,
    name: kind === 'sentinel' ? decodeURIComponent(first) : '',
    db: Number(dbText),
  }
}
