/** Runs once after all tests (jest globalTeardown). */
import './start-stack.ts'

const stopStack = (): Promise<void> | undefined => globalThis.stopTestStack?.()

export default stopStack
