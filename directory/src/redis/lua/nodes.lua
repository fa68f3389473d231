-- Nodes: their runs and leases.
--
-- live          set     the nodes that hold a lease
-- node:NODE     hash    one of them: its run, the lease's end, what it says of itself
-- ended         hash    NODE@BOOT -> 'end superseded', of runs that are over
-- runs:NODE     set     the node's runs in ended
-- due           zset    what ends by itself: a:NODE, b:NODE@BOOT, c:SESSION, at its µs
local function node_key(node)
    return PREFIX .. 'node:' .. node
end

local function runs_key(node)
    return PREFIX .. 'runs:' .. node
end

local function run_of(node, boot)
    return node .. '@' .. boot
end

-- Node and boot id of a run; nil if it is none.
local function split(run)
    local node, boot = (run or ''):match('^([a-z0-9%-]+)@([0-9a-f]+)$')
    if node and #node <= NODE_ID_CHARS_MAX and #boot == 16 then
        return node, boot
    end
end

local function holder_json(run)
    local node, boot = split(run)
    return '{"node":"' .. node .. '","boot":"' .. boot .. '"}'
end

local function node_json(n)
    return n.fixed:sub(1, -2) .. ',' .. n.state:sub(2, -2) .. ',"drain_wanted":' .. n.drain .. '}'
end

-- What is stored of a node, whether or not its lease is over; nil if there is nothing that a relay
-- could have written.
local function stored_node(node)
    local f = try('HMGET', node_key(node), 'boot', 'until', 'fixed', 'state', 'drain', 'seal')
    if not f or not hex(f[1], 16) or not number(f[2]) or not f[3] or not f[4] then
        return nil
    end
    if #f[3] + #f[4] > RECORD_BYTES_MAX or (f[5] ~= 'true' and f[5] ~= 'false') then
        return nil
    end
    return { node = node, boot = f[1], till = number(f[2]), fixed = f[3], state = f[4], drain = f[5],
        seal = f[6] }
end

-- What tells whether a record still is what its registration left there: renewing keeps that part.
local function seal_of(node, boot, fixed)
    return redis.sha1hex(run_of(node, boot) .. fixed)
end

-- Whether what is stored of the node, read as `n`, was written by something else than a relay.
local function garbled(node, n)
    if n then
        return n.seal ~= seal_of(node, n.boot, n.fixed)
    end
    return try('HLEN', node_key(node)) ~= 0
end

local function end_run(n)
    local run = run_of(n.node, n.boot)
    local till = decimal(now + ORPHAN_TTL)
    call('DEL', node_key(n.node))
    call('SREM', LIVE, n.node)
    call('ZREM', DUE, 'a:' .. n.node)
    call('HSET', ENDED, run, till .. ' 0')
    call('SADD', runs_key(n.node), n.boot)
    call('ZADD', DUE, till, 'b:' .. run)
    tell('{"node_gone":' .. holder_json(run) .. '}')
end

-- The node's live run.
local function live(node)
    local n = stored_node(node)
    if n and n.till <= now then
        end_run(n)
        return nil
    end
    return n
end

local function ended(run)
    local till, superseded = (call('HGET', ENDED, run) or ''):match('^(%d+) ([01])$')
    till = number(till)
    return till and { till = till, superseded = superseded == '1' }
end

local function forget_end(run)
    local node, boot = split(run)
    call('ZREM', DUE, 'b:' .. run)
    call('HDEL', ENDED, run)
    if node then
        call('SREM', runs_key(node), boot)
    end
end

-- The refusal after which a relay registers (again); it names the key if that holds garbage.
local function not_registered(run, n)
    local node = split(run)
    return { 'not_registered', run, garbled(node, n) and node_key(node) or '' }
end

-- The live node of this run; otherwise nil and the refusal.
local function living(run)
    local node, boot = split(run)
    local n = live(node)
    if n and n.boot == boot then
        return n
    end
    local e = ended(run)
    if (e and e.superseded) or (n and not garbled(node, n)) then
        return nil, { 'superseded', run }
    end
    return nil, not_registered(run, n)
end

local function start_lease(n)
    local till = decimal(now + NODE_LEASE)
    call('HSET', node_key(n.node), 'boot', n.boot, 'until', till, 'fixed', n.fixed,
        'state', n.state, 'drain', n.drain, 'seal', n.seal)
    call('SADD', LIVE, n.node)
    call('ZADD', DUE, till, 'a:' .. n.node)
end

-- Prolongs a lease under what the node now says of itself.
local function keep(n, fixed, state)
    local differs = n.fixed ~= fixed or n.state ~= state
    n.fixed, n.state = fixed, state
    n.seal = seal_of(n.node, n.boot, fixed)
    start_lease(n)
    if differs then
        tell('{"node_changed":' .. node_json(n) .. '}')
    end
    return { 'done' }
end

local function mesh_of(fixed)
    return fixed:match('"mesh_id":"(%x+)"')
end

-- Where clients and other nodes reach it.
local function addresses(fixed)
    return fixed:match('"address":"([^"]*)"'), fixed:match('"mesh_address":"([^"]*)"')
end

-- The first live node of another mesh.
local function stranger(mesh)
    local nodes = call('SMEMBERS', LIVE)
    table.sort(nodes)
    for _, node in ipairs(nodes) do
        local n = live(node)
        local other = n and mesh_of(n.fixed)
        if other and other ~= mesh then
            return node
        end
    end
end

local function register(node, boot, fixed, state)
    local run = run_of(node, boot)
    local n = live(node)
    if n and n.boot == boot then
        return keep(n, fixed, state)
    end
    local other = stranger(mesh_of(fixed))
    if other then
        return { 'other_mesh', other }
    end
    local e = ended(run)
    if e and e.superseded then
        return { 'superseded', run }
    end
    if n and not garbled(node, n) then
        local address, mesh_address = addresses(n.fixed)
        local own, own_mesh = addresses(fixed)
        if address ~= own or mesh_address ~= own_mesh then
            return { 'node_id_taken', address, mesh_address }
        end
    end
    local earlier = call('SMEMBERS', runs_key(node))
    local runs = call('SCARD', LIVE) + call('HLEN', ENDED)
    if not e and runs >= RUNS_MAX then
        return { 'full', 'runs of nodes', decimal(RUNS_MAX) }
    end
    if e then
        forget_end(run)
    end
    if n then
        end_run(n)
        earlier[#earlier + 1] = n.boot
    end
    for _, other in ipairs(earlier) do
        local before = run_of(node, other)
        local was = other ~= boot and ended(before)
        if was and not was.superseded then
            call('HSET', ENDED, before, decimal(was.till) .. ' 1')
        end
    end
    -- Whatever else is under this key, no relay wrote it.
    call('DEL', node_key(node))
    local fresh = { node = node, boot = boot, fixed = fixed, state = state, drain = 'false',
        seal = seal_of(node, boot, fixed) }
    tell('{"node_up":' .. node_json(fresh) .. '}')
    start_lease(fresh)
    return { 'done' }
end

local function renew(run, state)
    local n, refusal = living(run)
    -- Kept as it is, it would hide the node from everyone for as long as it renews.
    if n and garbled(n.node, n) then
        return not_registered(run, n)
    end
    return refusal or keep(n, n.fixed, state)
end

local function deregister(run)
    local node, boot = split(run)
    local n = live(node)
    if n and n.boot == boot then
        end_run(n)
    end
    return { 'done' }
end

local function nodes()
    if call('SCARD', LIVE) > RUNS_MAX then
        garbage(LIVE, 'has more members than there can be nodes')
    end
    local reply = { 'nodes' }
    for _, node in ipairs(call('SMEMBERS', LIVE)) do
        local n = live(node)
        if n then
            reply[#reply + 1] = node
            reply[#reply + 1] = node_json(n)
        end
    end
    return reply
end

local function drain(node, wanted)
    local n = live(node)
    if not n then
        return { 'node_not_found' }
    end
    if n.drain ~= wanted then
        n.drain = wanted
        call('HSET', node_key(node), 'drain', wanted)
        tell('{"node_changed":' .. node_json(n) .. '}')
    end
    return { 'done' }
end

local function publish_keys(document)
    call('DEL', JWKS)
    call('HSET', JWKS, 'document', document, 'until', decimal(now + KEYS_TTL))
    return { 'done' }
end

local function keys()
    local f = call('HMGET', JWKS, 'document', 'until')
    local till = number(f[2])
    if not f[1] or not till or till <= now then
        return { 'keys' }
    end
    if #f[1] > KEYS_BYTES_MAX then
        garbage(JWKS, 'is too long')
    end
    return { 'keys', f[1] }
end
