import { describeAuthenticationLedger } from './authentication-ledger.contract.ts'
import { createMemoryAuthenticationLedger } from './memory-authentication-ledger.ts'

describeAuthenticationLedger('the one in memory', async () => {
  const ledger = createMemoryAuthenticationLedger()
  return { ledger, another: async () => ledger, close: async () => undefined }
})
