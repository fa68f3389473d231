-- Session records: ballots and views, join codes and listings.
--
-- session:SESSION  hash   the record; 'until' is the end of its listing
-- owned            zset   NODE@BOOT/SESSION: every session once, by the run that owns it
-- codes            hash   join code -> session
-- listed           zset   the sessions whose record has a listing
local function session_key(id)
    return PREFIX .. 'session:' .. id
end

local function owned_by(run, id)
    return run .. '/' .. id
end

local function view_json(s)
    local standby = s.standby == '' and 'null' or holder_json(s.standby)
    return '{"epoch":' .. s.epoch .. ',"nonce":"' .. s.nonce .. '","owner":' .. holder_json(s.owner)
        .. ',"standby":' .. standby .. ',"anchors":' .. s.anchors .. '}'
end

local function record_json(s)
    local code = s.code == '' and 'null' or '"' .. s.code .. '"'
    local listing = s.listing == '' and 'null' or s.listing
    return '{"id":"' .. s.id .. '","home_region":"' .. s.region .. '","ballot":' .. s.ballot
        .. ',"view":' .. view_json(s) .. ',"code":' .. code .. ',"listing":' .. listing .. '}'
end

-- Takes a session out of everything that leads to it.
local function discard(id, owner, code)
    if code and call('HGET', CODES, code) == id then
        call('HDEL', CODES, code)
    end
    call('ZREM', LISTED, id)
    call('ZREM', DUE, 'c:' .. id)
    call('DEL', session_key(id))
    call('ZREM', OWNED, owned_by(owner, id))
    tell('{"session_closed":"' .. id .. '"}')
end

local function unlist(s)
    s.listing = ''
    call('HSET', session_key(s.id), 'listing', '', 'until', '0')
    call('ZREM', LISTED, s.id)
    call('ZREM', DUE, 'c:' .. s.id)
end

local function list(s, listing)
    local till = decimal(now + LISTING_LEASE)
    s.listing = listing
    call('HSET', session_key(s.id), 'listing', listing, 'until', till)
    call('ZADD', LISTED, 0, s.id)
    call('ZADD', DUE, till, 'c:' .. s.id)
end

-- Gives the session this code and no other.
local function set_code(s, code)
    if s.code ~= '' then
        call('HDEL', CODES, s.code)
    end
    if code ~= '' then
        call('HSET', CODES, code, s.id)
    end
    s.code = code
    call('HSET', session_key(s.id), 'code', code)
end

-- The first of the drawn codes that nobody has; otherwise nil and the refusal.
local function free_code(drawn)
    for _, code in ipairs(drawn) do
        if call('HEXISTS', CODES, code) == 0 then
            return code
        end
    end
    return nil, { 'full', 'join codes', decimal(call('HLEN', CODES)) }
end

-- The session; nil if there is none. One whose owner's run is forgotten is closed here if it was
-- not yet.
local function load(id)
    local key = session_key(id)
    local f = call('HMGET', key, 'region', 'ballot', 'epoch', 'nonce', 'owner', 'standby', 'anchors',
        'code', 'listing', 'until')
    local size, found = 0, false
    for i = 1, 10 do
        found = found or f[i]
        size = size + (f[i] and #f[i] or 0)
    end
    if not found then
        return nil
    end
    local whole = f[1] and f[1]:match('^[a-z0-9%-]+$') and number(f[2]) and number(f[3])
        and hex(f[4], 16) and split(f[5]) and f[6] and (f[6] == '' or split(f[6]))
        and f[7] and f[7]:match('^%[[0-9,]*%]$') and f[8] and f[8]:match('^%w*$')
        and f[9] and (f[9] == '' or f[9]:sub(1, 1) == '{') and number(f[10])
    if not whole or size > RECORD_BYTES_MAX then
        garbage(key, 'is no session')
    end
    local s = { id = id, region = f[1], ballot = f[2], epoch = f[3], nonce = f[4], owner = f[5],
        standby = f[6], anchors = f[7], code = f[8], listing = f[9] }
    local node, boot = split(s.owner)
    local n = live(node)
    if not n or n.boot ~= boot then
        local e = ended(s.owner)
        if not e or e.till <= now then
            discard(id, s.owner, s.code)
            return nil
        end
    end
    if s.listing ~= '' and number(f[10]) <= now then
        unlist(s)
    end
    return s
end

local function conflict(s)
    return { 'conflict', s.ballot, s.epoch }
end

local function far_ahead(epoch)
    local max = now + EPOCH_AHEAD_MAX
    return tonumber(epoch) > max and { 'ahead', epoch, decimal(max) } or nil
end

local function insert(s)
    s.code, s.listing = '', ''
    call('HSET', session_key(s.id), 'region', s.region, 'ballot', s.ballot, 'epoch', s.epoch,
        'nonce', s.nonce, 'owner', s.owner, 'standby', s.standby, 'anchors', s.anchors, 'code', '',
        'listing', '', 'until', '0')
    call('ZADD', OWNED, 0, owned_by(s.owner, s.id))
end

local function set_view(s, view)
    local moved = s.owner ~= view.owner or s.standby ~= view.standby
    if s.owner ~= view.owner then
        call('ZREM', OWNED, owned_by(s.owner, s.id))
        call('ZADD', OWNED, 0, owned_by(view.owner, s.id))
    end
    s.epoch, s.nonce, s.owner, s.standby, s.anchors =
        view.epoch, view.nonce, view.owner, view.standby, view.anchors
    call('HSET', session_key(s.id), 'epoch', s.epoch, 'nonce', s.nonce, 'owner', s.owner,
        'standby', s.standby, 'anchors', s.anchors)
    if moved then
        tell('{"session_moved":{"id":"' .. s.id .. '","view":' .. view_json(s) .. '}}')
    end
end

local function take_view()
    return { epoch = take(), nonce = take(), owner = take(), standby = take(), anchors = take() }
end

local function take_codes()
    local drawn = {}
    for i = argument + 1, #ARGV do
        drawn[#drawn + 1] = ARGV[i]
    end
    return drawn
end

-- What is there is what counts: a count kept beside it could be wrong for good.
local function no_room()
    local last = call('ZRANGE', OWNED, SESSIONS_MAX - 1, SESSIONS_MAX - 1)
    return #last > 0 and { 'full', 'sessions', decimal(SESSIONS_MAX) } or nil
end

local function create(id, region, owner, listing, nonce, drawn)
    local s = load(id)
    if s then
        return { 'exists', record_json(s) }
    end
    local _, refusal = living(owner)
    refusal = refusal or no_room()
    if refusal then
        return refusal
    end
    local code = ''
    if #drawn > 0 then
        code, refusal = free_code(drawn)
        if refusal then
            return refusal
        end
    end
    local epoch = next_epoch(0)
    s = { id = id, region = region, ballot = epoch, epoch = epoch, nonce = nonce, owner = owner,
        standby = '', anchors = '[]' }
    insert(s)
    if code ~= '' then
        set_code(s, code)
    end
    if listing ~= '' then
        list(s, listing)
    end
    return { 'created', epoch, nonce, code }
end

local function session(id)
    local s = load(id)
    return s and { 'session', record_json(s) } or { 'session' }
end

local function by_code(code)
    local id = call('HGET', CODES, code)
    if not hex(id, 32) then
        return { 'session' }
    end
    return session(id)
end

-- The session if `epoch` is in force and its owner live; otherwise nil and the refusal.
local function owned(id, epoch)
    local s = load(id)
    if not s then
        return nil, { 'session_not_found' }
    end
    if s.epoch ~= epoch then
        return nil, conflict(s)
    end
    local n, refusal = living(s.owner)
    return n and s, refusal
end

local function rotate_code(id, epoch, drawn)
    local s, refusal = owned(id, epoch)
    local code
    if s then
        code, refusal = free_code(drawn)
    end
    if refusal then
        return refusal
    end
    set_code(s, code)
    return { 'code', code }
end

local function revoke_code(id, epoch)
    local s, refusal = owned(id, epoch)
    if refusal then
        return refusal
    end
    set_code(s, '')
    return { 'code' }
end

local function raise_ballot(id, expected, promised)
    local s = load(id)
    if not s then
        return { 'session_not_found' }
    end
    if s.ballot ~= expected then
        return conflict(s)
    end
    local refusal = far_ahead(promised)
    if refusal then
        return refusal
    end
    s.ballot = next_epoch(math.max(tonumber(s.ballot), tonumber(promised)))
    call('HSET', session_key(id), 'ballot', s.ballot)
    return { 'session', record_json(s) }
end

local function install_view(id, ballot, view)
    local s = load(id)
    if not s then
        return { 'session_not_found' }
    end
    local same_reign = view.nonce == s.nonce and view.owner == s.owner
    if ballot ~= s.ballot or view.epoch ~= ballot or (view.epoch == s.epoch and not same_reign) then
        return conflict(s)
    end
    local _, refusal = living(view.owner)
    if refusal then
        return refusal
    end
    set_view(s, view)
    return { 'done' }
end

-- Gives a record back that was lost.
local function restore(id, region, ballot, code, listing, view)
    local _, refusal = living(view.owner)
    refusal = refusal or far_ahead(ballot)
    if refusal then
        return refusal
    end
    local s = load(id)
    -- Who has the code may be forgotten by now, and with it the code be free.
    local holder = code ~= '' and call('HGET', CODES, code)
    if holder and holder ~= id and (not hex(holder, 32) or not load(holder)) then
        call('HDEL', CODES, code)
        holder = false
    end
    if not s then
        refusal = no_room()
        if refusal then
            return refusal
        end
        s = { id = id, region = region, ballot = ballot, epoch = view.epoch, nonce = view.nonce,
            owner = view.owner, standby = view.standby, anchors = view.anchors }
        insert(s)
    else
        local same = s.epoch == view.epoch and s.nonce == view.nonce and s.owner == view.owner
            and s.standby == view.standby and s.anchors == view.anchors
        local newer = tonumber(s.epoch) < tonumber(view.epoch)
        if not same and not newer then
            return conflict(s)
        end
        s.ballot = decimal(math.max(tonumber(s.ballot), tonumber(ballot)))
        call('HSET', session_key(id), 'ballot', s.ballot)
        if newer then
            set_view(s, view)
        end
    end
    if tonumber(ballot) > issued then
        issued = tonumber(ballot)
        call('HSET', META, 'issued', ballot)
    end
    if code ~= '' and s.code == '' and not holder then
        set_code(s, code)
    end
    if listing ~= '' then
        list(s, listing)
    end
    return { 'session', record_json(s) }
end

local function assert_listing(id, epoch, listing)
    local s, refusal = owned(id, epoch)
    if refusal then
        return refusal
    end
    list(s, listing)
    return { 'done' }
end

local function close_session(id, epoch)
    local s = load(id)
    if s then
        local refusal
        s, refusal = owned(id, epoch)
        if refusal then
            return refusal
        end
        discard(id, s.owner, s.code)
    end
    return { 'done' }
end
