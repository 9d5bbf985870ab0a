/** Operations on SAEs: which exist, which are let in, who may share keys with whom. The directory writes the audit record
 *  of a change in the change's own transaction. */
import type { RegisteredSae, SaeDirectory } from '../delivery/delivery.ts'
import type { components } from '../generated/admin.ts'
import { BadRequest, NotFound } from '../kernel/errors.ts'
import { parseKmeId, parseSaeId, type KmeId, type SaeId } from '../kernel/identifiers.ts'
import { actorOf, readMembers, type AdminRequest, type AdminRoute } from './admin-route.ts'

type Sae = components['schemas']['Sae']
type Pair = components['schemas']['Pair']

const saeId = (value: unknown): SaeId | undefined => (typeof value === 'string' ? parseSaeId(value) : undefined)
const kmeId = (value: unknown): KmeId | undefined => (typeof value === 'string' ? parseKmeId(value) : undefined)
const boolean = (value: unknown): boolean | undefined => (typeof value === 'boolean' ? value : undefined)

export const manageSaesRoutes = ({ saes }: { readonly saes: SaeDirectory }): AdminRoute[] => [
  {
    method: 'get',
    path: '/api/v1/saes',
    scope: 'sae:read',
    handle: () => ({ json: { saes: saes.list().map(toSae) } }),
  },
  {
    method: 'post',
    path: '/api/v1/saes',
    scope: 'sae:write',
    handle: async ({ admin, body }) => {
      const sae = readMembers<{ saeId: SaeId; kmeId: KmeId }>(body, { saeId, kmeId })
      await saes.register(sae, actorOf(admin))
      return { json: show(saes, sae.saeId), status: 201 }
    },
  },
  {
    method: 'post',
    path: '/api/v1/saes/:saeId/enable',
    scope: 'sae:write',
    handle: (request) => setEnabled(saes, request, true),
  },
  {
    method: 'post',
    path: '/api/v1/saes/:saeId/disable',
    scope: 'sae:write',
    handle: (request) => setEnabled(saes, request, false),
  },
  {
    method: 'post',
    path: '/api/v1/pairs',
    scope: 'sae:write',
    handle: async ({ admin, body }) => {
      const { one, other, allowed } = readMembers<{ one: SaeId; other: SaeId; allowed: boolean }>(body, {
        one: saeId,
        other: saeId,
        allowed: boolean,
      })
      if (one === other) throw new BadRequest([{ problem: 'other: the same SAE as one' }])
      await saes.setPair(one, other, allowed, actorOf(admin))
      const json: Pair = { one, other, allowed }
      return { json }
    },
  },
]

const setEnabled = async (
  saes: SaeDirectory,
  { admin, body, pathParameter }: AdminRequest,
  enabled: boolean,
): Promise<{ json: Sae }> => {
  readMembers(body, {})
  const id = parseSaeId(pathParameter)
  if (id === undefined) throw new BadRequest([{ problem: 'saeId: not an SAE ID' }])
  await saes.setEnabled(id, enabled, actorOf(admin))
  return { json: show(saes, id) }
}

const show = (saes: SaeDirectory, id: SaeId): Sae => {
  const sae = saes.find(id)
  if (sae === undefined) throw new NotFound('there is no such SAE')
  return toSae(sae)
}

const toSae = (sae: RegisteredSae): Sae => ({
  saeId: sae.saeId,
  kmeId: sae.kmeId,
  enabled: sae.enabled,
  sharesWith: [...sae.sharesWith],
})
