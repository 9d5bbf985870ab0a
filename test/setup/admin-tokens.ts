import { generateKeyPairSync } from 'node:crypto'
import { signAdminToken } from '../../src/admin/admin-token.ts'
import { adminScopes } from '../../src/admin/admin.ts'
import { systemClock } from '../../src/kernel/clock.ts'
import { systemRandom } from '../../src/kernel/random.ts'

/** Tokens that allow everything at the KMEs that are configured with the public key. */
export const createAdminTokens = () => {
  const { privateKey: privateKeyPem, publicKey: publicKeyPem } = generateKeyPairSync('ed25519', {
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  })
  const scopes = [...adminScopes]
  return {
    publicKeyPem,
    /** Valid for an hour. */
    sign: (): Promise<string> =>
      signAdminToken({ privateKeyPem, subject: 'tester', scopes, lifeS: 3600, clock: systemClock, random: systemRandom }),
  }
}
